using System.Runtime.InteropServices;

namespace Repeng.Kernels.Dry;

/// <summary>
/// The op contract without the arithmetic: ops write nothing and check nothing, they count. Running the real code of
/// a training step over it predicts the memory and the work of the step. Memory is real and zeroed but its pages
/// are not touched, so that a run far larger than the machine can be tried.
/// <para>
/// Small uploads (token ids, positions, masks) are copied, since host code and the attention's count read them back;
/// larger ones are counted alone. Everything else reads as zeros. Not thread-safe.
/// </para>
/// </summary>
public sealed unsafe partial class DryBackend : IBackend
{
    private readonly OpTotals[] _totals = new OpTotals[Enum.GetValues<OpFamily>().Length];
    private OpTally _tally = new();

    /// <summary>Uploads of at most this many bytes are copied.</summary>
    public const long CopiedUploadBytes = 1 << 20;

    /// <inheritdoc/>
    public string Name => "dry";

    /// <inheritdoc/>
    public bool IsDry => true;

    /// <summary>Multiply-adds times two, over all families.</summary>
    public double Flops => Total().Flops;

    /// <summary>Bytes read and written over all families, every operand crossing the memory bus once.</summary>
    public long Bytes => Total().Bytes;

    /// <summary>Bytes allocated now.</summary>
    public long AllocatedBytes { get; private set; }

    /// <summary>The largest <see cref="AllocatedBytes"/> so far.</summary>
    public long PeakAllocatedBytes { get; private set; }

    /// <summary>What the ops of one family did since the start or the last <see cref="Reset"/>.</summary>
    public OpTotals this[OpFamily family] => _totals[(int)family];

    /// <summary>What all ops did.</summary>
    public OpTotals Total()
    {
        OpTotals sum = default;
        foreach (OpTotals totals in _totals)
            sum += totals;
        return sum;
    }

    /// <summary>Sets all counters of ops to zero and the peak of memory to what is allocated now.</summary>
    public void Reset()
    {
        Array.Clear(_totals);
        _tally = new OpTally();
        PeakAllocatedBytes = AllocatedBytes;
    }

    /// <summary>The ops since the start, the last <see cref="Reset"/> or the last call; what follows goes into another tally.</summary>
    public OpTally TakeTally()
    {
        OpTally taken = _tally;
        _tally = new OpTally();
        return taken;
    }

    /// <inheritdoc/>
    /// <exception cref="UserErrorException">Not even the addresses are to be had.</exception>
    public nint Allocate(long bytes)
    {
        ArgumentOutOfRangeException.ThrowIfNegative(bytes);
        // As the CPU backend does it: the word before the block holds the address to free.
        nint raw;
        try
        {
            raw = (nint)NativeMemory.AllocZeroed((nuint)bytes + 64 + (nuint)sizeof(nint));
        }
        catch (OutOfMemoryException e)
        {
            throw new UserErrorException($"a dry run could not reserve {bytes / 1048576.0:F0} MiB of addresses beside the {AllocatedBytes / 1048576.0:F0} MiB that it holds; use a smaller batch or fewer tokens", e);
        }
        nint aligned = (raw + sizeof(nint) + 63) & ~(nint)63;
        ((nint*)aligned)[-1] = raw;
        AllocatedBytes += bytes;
        PeakAllocatedBytes = Math.Max(PeakAllocatedBytes, AllocatedBytes);
        return aligned;
    }

    /// <inheritdoc/>
    public void Free(nint address, long bytes)
    {
        if (address == 0)
            return;
        NativeMemory.Free((void*)((nint*)address)[-1]);
        AllocatedBytes -= bytes;
    }

    /// <inheritdoc/>
    public void Upload(View destination, ReadOnlySpan<byte> source)
    {
        if (source.Length != destination.Bytes)
            throw new ArgumentException($"Upload: {source.Length} bytes into a view of {destination.Bytes}");
        Count(OpFamily.Copy, 0, destination.Length, 2L * source.Length);
        if (source.Length <= CopiedUploadBytes)
            source.CopyTo(new Span<byte>((void*)destination.Address, source.Length));
    }

    /// <inheritdoc/>
    public void Download(Span<byte> destination, View source)
    {
        if (destination.Length != source.Bytes)
            throw new ArgumentException($"Download: a view of {source.Bytes} bytes into {destination.Length}");
        Count(OpFamily.Copy, 0, source.Length, 2L * destination.Length);
        new ReadOnlySpan<byte>((void*)source.Address, destination.Length).CopyTo(destination);
    }

    /// <inheritdoc/>
    public void Copy(View dst, View src) => Count(OpFamily.Copy, 0, dst.Length, dst.Bytes + src.Bytes);

    /// <inheritdoc/>
    public void Fill(View dst, float value) => Count(OpFamily.Copy, 0, dst.Length, dst.Bytes);

    /// <inheritdoc/>
    /// <remarks>Memory still allocated belongs to its owners, as with every backend.</remarks>
    public void Dispose()
    {
    }

    private void Count(OpFamily family, double flops, double elements, long bytes) => Count(new OpCost(family, flops, bytes), elements);

    private void Count(in OpCost op, double elements)
    {
        ref OpTotals totals = ref _totals[(int)op.Family];
        totals = new OpTotals(totals.Calls + 1, totals.Flops + op.Flops, totals.Elements + elements, totals.Bytes + op.Bytes);
        _tally.Add(op);
    }

    /// <summary>Counts an op on so many elements that touches so many fp32 values.</summary>
    private void Count(OpFamily family, double elements, double touched) => Count(family, 0, elements, (long)(touched * sizeof(float)));
}
