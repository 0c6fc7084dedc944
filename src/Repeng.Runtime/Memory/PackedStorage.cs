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
    /// counts mapped bytes as lent, so that a dry run predicts them.
    /// </summary>
    public static unsafe Tensor Load(Device device, PackedTensor stored, params ReadOnlySpan<int> shape)
    {
        MemoryPool pool = device.Pool;
        bool inPlace = stored.Mapped is not null && (device.Backend.ReadsHostMemory || device.Backend is DryBackend);
        if (stored.Mapped is { } mapped && inPlace)
        {
            bool dry = device.Backend is DryBackend;
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
                    break;
                case DryBackend:
                    break;
                default:
                    throw new UserErrorException($"weights stored as {stored.Form} run on the CPU alone so far, not on {device.Name}; take --device cpu, or --weight_type f32");
            }
            return new Tensor(device, stored.At(block).View, new PackedStorage(() => pool.Return(block, granted)), shape);
        }
        catch
        {
            pool.Return(block, granted);
            throw;
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
