using System.Runtime.CompilerServices;
using Repeng.Kernels.Cuda.Interop;
using Repeng.Kernels.Quantised;

namespace Repeng.Kernels.Cuda;

/// <summary>
/// Packed weights that products decode to bf16, kept from one product to the next while the device has memory to spare: each is decoded once, not in
/// every pass. The packed form stays what the model is. What is kept goes back as soon as anything else asks for more memory than is free.
/// </summary>
public sealed partial class CudaBackend
{
    /// <summary>Environment variable: <c>none</c> decodes a packed weight anew for every product.</summary>
    public const string DecodedSwitch = "REPENG_CUDA_DECODED";

    // The part of the device's memory that decoded weights leave free.
    private const double SparedPart = 0.25;

    private readonly ConditionalWeakTable<Packing, StrongBox<nint>> _decoded = [];
    private readonly List<(WeakReference<Packing> Of, nint Address, long Bytes)> _decodedBlocks = [];
    private bool _keepsMore = !string.Equals(Environment.GetEnvironmentVariable(DecodedSwitch), "none", StringComparison.OrdinalIgnoreCase);

    /// <summary>Whether decoded weights are kept while there is memory; only where operands round (<see cref="CudaPrecision.Bf16"/>) are there any.</summary>
    public bool KeepsDecoded
    {
        get => _keepsMore;
        set
        {
            lock (_lock)
            {
                _keepsMore = value;
                if (!value)
                    DropDecoded();
            }
        }
    }

    /// <summary>Bytes of the decoded weights that are kept: 2 for each of their elements.</summary>
    public long DecodedBytes { get; private set; }

    // Elements of a packed matrix as bf16: where they are kept, or in scratch until the next weight is decoded.
    private nint DecodedWeight(View part, Packing packing)
    {
        if (TryKeep(packing, out nint whole))
            return whole + (nint)(2 * part.Start);
        nint scratch = Scratch(Math.Max(1, 2 * part.Length), ref _unpacked);
        UnpackTo(scratch, part, packing, DType.BF16);
        return scratch;
    }

    private bool TryKeep(Packing packing, out nint address)
    {
        lock (_lock)
        {
            if (_decoded.TryGetValue(packing, out StrongBox<nint>? known))
            {
                address = known.Value;
                return true;
            }
            address = 0;
            if (!_keepsMore)
                return false;
            FreeDecoded(ofDead: true);
            long bytes = Math.Max(1, 2 * packing.Elements);
            (long free, long total) = Context.Memory();
            if (free - bytes < total * SparedPart)
            {
                _keepsMore = false;
                return false;
            }
            try
            {
                address = Context.Allocate(bytes);
            }
            catch (CudaException e) when (e.Result == CuResult.OutOfMemory)
            {
                _keepsMore = false;
                return false;
            }
            _decodedBlocks.Add((new WeakReference<Packing>(packing), address, bytes));
            DecodedBytes += bytes;
            UnpackTo(address, packing.View, packing, DType.BF16);
            // Only now: had the launch failed, nobody must find what it did not write.
            _decoded.Add(packing, new StrongBox<nint>(address));
            return true;
        }
    }

    // All memory of the device is asked for here: what is kept makes room.
    private nint AllocateOrMakeRoom(long bytes)
    {
        try
        {
            return Context.Allocate(bytes);
        }
        catch (CudaException e) when (e.Result == CuResult.OutOfMemory && DecodedBytes > 0)
        {
            lock (_lock)
            {
                _keepsMore = false;
                DropDecoded();
            }
            return Context.Allocate(bytes);
        }
    }

    private void DropDecoded()
    {
        _decoded.Clear();
        FreeDecoded(ofDead: false);
    }

    // Work that reads them is done first: cuMemFree waits.
    private void FreeDecoded(bool ofDead)
    {
        for (int i = _decodedBlocks.Count - 1; i >= 0; i--)
        {
            (WeakReference<Packing> of, nint address, long bytes) = _decodedBlocks[i];
            if (ofDead && of.TryGetTarget(out _))
                continue;
            _decodedBlocks.RemoveAt(i);
            // A recorded step may read it.
            Interlocked.Increment(ref _moves);
            DecodedBytes -= bytes;
            Context.Free(address);
        }
    }
}
