using System.Runtime.InteropServices;
using Repeng.Kernels;
using Repeng.Kernels.Dry;
using Repeng.Kernels.Quantised;
using Repeng.Runtime.Formats;

namespace Repeng.Runtime;

/// <summary>What holds the bytes of a packed tensor: a block of the device's pool, or part of a mapped file that stays open.</summary>
public sealed class PackedStorage : IDisposable
{
    private readonly Action _release;
    private bool _released;

    private PackedStorage(Action release) => _release = release;

    /// <summary>
    /// Brings a quantised tensor to a device: on the CPU in place where its file is mapped, else copied once. The pool
    /// counts mapped bytes as lent, so that a dry run predicts them. The packed form is the only copy on the device.
    /// </summary>
    /// <param name="device">Where to.</param>
    /// <param name="stored">The bytes.</param>
    /// <param name="onHost">Called with the matrix while its bytes lie in host memory, before a device other than the CPU has them; never in a dry run.</param>
    /// <param name="shape">Shape of the tensor.</param>
    public static unsafe Tensor Load(Device device, PackedTensor stored, Action<Packing>? onHost, params ReadOnlySpan<int> shape)
    {
        MemoryPool pool = device.Pool;
        bool inPlace = stored.Mapped is not null && (device.Backend.ReadsHostMemory || device.Backend is DryBackend);
        if (stored.Mapped is { } mapped && inPlace)
        {
            bool dry = device.Backend is DryBackend;
            if (!dry)
                onHost?.Invoke(stored.At((nint)mapped.Address));
            IDisposable? hold = dry ? null : mapped.Hold();
            pool.Lend(stored.Bytes);
            return new Tensor(device, stored.At((nint)mapped.Address).View, new PackedStorage(() =>
            {
                hold?.Dispose();
                pool.TakeBack(stored.Bytes);
            }), shape);
        }
        nint block = pool.Take(stored.Bytes, out long granted);
        try
        {
            switch (device.Backend)
            {
                case { ReadsHostMemory: true }:
                    stored.Fill((byte*)block);
                    onHost?.Invoke(stored.At(block));
                    break;
                case { IsDry: true }:
                    break;
                default:
                    Send(device.Backend, stored, block, onHost);
                    break;
            }
            return new Tensor(device, stored.At(block).View, new PackedStorage(() => pool.Return(block, granted)), shape);
        }
        catch
        {
            pool.Return(block, granted);
            throw;
        }
    }

    // A mapped file is sent from where it lies; what has to be put together, from a buffer of its size.
    private static unsafe void Send(IBackend backend, PackedTensor stored, nint block, Action<Packing>? onHost)
    {
        byte* buffer = stored.Mapped is null ? (byte*)NativeMemory.Alloc((nuint)Math.Max(1, stored.Bytes)) : null;
        try
        {
            byte* from = buffer;
            if (stored.Mapped is { } mapped)
                from = (byte*)mapped.Address;
            else
                stored.Fill(buffer);
            onHost?.Invoke(stored.At((nint)from));
            const int Words = 1 << 28;
            long words = stored.Bytes / sizeof(int);
            for (long at = 0; at < words; at += Words)
            {
                int count = (int)Math.Min(Words, words - at);
                backend.Upload(new View(block + (nint)(at * sizeof(int)), count, DType.I32), new ReadOnlySpan<byte>(from + at * sizeof(int), count * sizeof(int)));
            }
            // Blocks of the pool are whole words.
            if (stored.Bytes % sizeof(int) is > 0 and var rest)
            {
                Span<byte> last = stackalloc byte[sizeof(int)];
                last.Clear();
                new ReadOnlySpan<byte>(from + words * sizeof(int), (int)rest).CopyTo(last);
                backend.Upload(new View(block + (nint)(words * sizeof(int)), 1, DType.I32), last);
            }
            GC.KeepAlive(stored);
        }
        finally
        {
            NativeMemory.Free(buffer);
        }
    }

    /// <inheritdoc/>
    public void Dispose()
    {
        if (_released)
            return;
        _released = true;
        _release();
    }
}
