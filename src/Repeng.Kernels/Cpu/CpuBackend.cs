using System.Runtime.InteropServices;
using System.Runtime.Intrinsics;

namespace Repeng.Kernels.Cpu;

/// <summary>The op contract on the CPU: SIMD by the runtime's intrinsics (AVX-512, AVX2, NEON), all cores, same bits at any thread count.</summary>
public sealed unsafe partial class CpuBackend : IBackend
{
    private readonly CpuWorkers _workers;
    private bool _disposed;

    /// <summary>Uses the given number of threads; 0 takes every core.</summary>
    public CpuBackend(int threads = 0)
    {
        _ = SystemAllocator.ReturnLargeBlocks;
        _workers = new CpuWorkers(threads);
    }

    /// <inheritdoc/>
    public string Name => "cpu";

    /// <inheritdoc/>
    public bool ReadsHostMemory => true;

    /// <summary>The threads, for host work between ops.</summary>
    public CpuWorkers Workers => _workers;

    /// <summary>Number of threads that ops run on.</summary>
    public int Threads => _workers.Count;

    /// <summary>The widest SIMD unit in use, for reports.</summary>
    public static string Simd => Vector512.IsHardwareAccelerated ? "AVX-512" : Vector256.IsHardwareAccelerated ? "AVX2" : Vector128.IsHardwareAccelerated ? "128-bit" : "scalar";

    /// <inheritdoc/>
    public nint Allocate(long bytes)
    {
        ArgumentOutOfRangeException.ThrowIfNegative(bytes);
        // calloc gives zeroed pages without touching them; the alignment is made by hand.
        nuint size = (nuint)bytes + 64 + (nuint)sizeof(nint);
        nint raw;
        try
        {
            raw = (nint)NativeMemory.AllocZeroed(size);
        }
        catch (OutOfMemoryException e)
        {
            throw new UserErrorException($"out of memory: {bytes / 1048576.0:F0} MiB more were asked of the CPU; use a smaller batch or --micro_batch_size, fewer tokens or --checkpoint_activations", e);
        }
        nint aligned = (raw + sizeof(nint) + 63) & ~(nint)63;
        ((nint*)aligned)[-1] = raw;
        return aligned;
    }

    /// <inheritdoc/>
    public void Free(nint address, long bytes)
    {
        if (address != 0)
            NativeMemory.Free((void*)((nint*)address)[-1]);
    }

    /// <inheritdoc/>
    public void Upload(View destination, ReadOnlySpan<byte> source)
    {
        if (source.Length != destination.Bytes)
            throw new ArgumentException($"Upload: {source.Length} bytes into a view of {destination.Bytes}");
        source.CopyTo(new Span<byte>((void*)destination.Address, source.Length));
    }

    /// <inheritdoc/>
    public void Download(Span<byte> destination, View source)
    {
        if (destination.Length != source.Bytes)
            throw new ArgumentException($"Download: a view of {source.Bytes} bytes into {destination.Length}");
        new ReadOnlySpan<byte>((void*)source.Address, destination.Length).CopyTo(destination);
    }

    /// <inheritdoc/>
    public void Copy(View dst, View src)
    {
        if (dst.Type != src.Type || dst.Length != src.Length)
            throw new ArgumentException($"Copy: {src.Length} × {src.Type} into {dst.Length} × {dst.Type}");
        NativeMemory.Copy((void*)src.Address, (void*)dst.Address, (nuint)dst.Bytes);
    }

    /// <inheritdoc/>
    public void Fill(View dst, float value)
    {
        float* p = dst.Floats;
        for (long at = 0; at < dst.Length; at += int.MaxValue)
            new Span<float>(p + at, (int)Math.Min(int.MaxValue, dst.Length - at)).Fill(value);
    }

    /// <inheritdoc/>
    public void Dispose()
    {
        if (_disposed)
            return;
        _disposed = true;
        _workers.Dispose();
    }
}
