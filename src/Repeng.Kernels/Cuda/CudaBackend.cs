using System.Collections.Concurrent;
using System.Runtime.CompilerServices;
using Repeng.Kernels.Cuda.Interop;

namespace Repeng.Kernels.Cuda;

/// <summary>
/// The op contract on an NVIDIA GPU: the kernels of kernels/*.cu, queued on one stream. Ops return before they are done; a
/// download waits. A kernel that failed is told by the next call that waits. Index values in device memory are not checked here.
/// Scratch belongs to one op at a time: an op of several launches must not be called from two threads at once, as their launches would
/// be queued between each other and share the scratch. Allocation, copies and ops of one launch without scratch may come from any thread.
/// </summary>
public sealed partial class CudaBackend : IBackend
{
    private readonly Dictionary<string, CudaModule> _modules = new(StringComparer.Ordinal);
    private readonly ConcurrentDictionary<string, CudaFunction> _functions = new(StringComparer.Ordinal);
    private readonly Lock _lock = new();
    private ScratchRoom _scratch;

    // A decoded weight, which a product reads that may need scratch of its own.
    private ScratchRoom _unpacked;
    private bool _disposed;

    private readonly IDisposable? _ownedDriver;

    private CudaBackend(CudaContext context, CudaLibraries libraries, IDisposable? ownedDriver) => (Context, _libraries, _ownedDriver) = (context, libraries, ownedDriver);

    /// <summary>The device in use.</summary>
    public CudaContext Context { get; }

    /// <inheritdoc/>
    public string Name => "cuda";

    /// <inheritdoc/>
    public bool IsDry => Context.Driver.IsDry;

    /// <summary>Opens a device of this machine; −1 takes the best. Throws <see cref="UserErrorException"/> with what is missing.</summary>
    public static CudaBackend Open(int ordinal = -1, CudaPrecision precision = CudaPrecision.Exact)
    {
        CudaDevices devices = CudaDevices.Find();
        return Open(devices.Driver, devices.Choose(ordinal), CudaLibraries.Find(), precision);
    }

    /// <summary>Opens a device of an injected table. A driver that is to be disposed with the backend is owned by it from here on, also where opening fails.</summary>
    public static CudaBackend Open(CudaDriver driver, CudaDeviceInfo device, bool ownsDriver = false, CudaPrecision precision = CudaPrecision.Exact)
    {
        IDisposable? owned = ownsDriver ? driver as IDisposable : null;
        try
        {
            return new(CudaContext.Open(driver, device), CudaLibraries.None, owned) { Precision = precision };
        }
        catch
        {
            owned?.Dispose();
            throw;
        }
    }

    /// <summary>Opens a device of an injected table with libraries that are injected too.</summary>
    /// <param name="driver">The driver.</param>
    /// <param name="device">The device.</param>
    /// <param name="libraries">Libraries; <see cref="CudaLibraries.None"/> for none.</param>
    /// <param name="precision">How exact products of layers are.</param>
    /// <param name="leastWork">FLOP from which products go to a library.</param>
    public static CudaBackend Open(CudaDriver driver, CudaDeviceInfo device, CudaLibraries libraries, CudaPrecision precision = CudaPrecision.Exact, double leastWork = CudaLibraries.LeastWork) =>
        new(CudaContext.Open(driver, device), libraries, null) { Precision = precision, LeastLibraryWork = leastWork };

    /// <inheritdoc/>
    public nint Allocate(long bytes) => AllocateOrMakeRoom(bytes);

    /// <inheritdoc/>
    public void Free(nint address, long bytes) => Context.Free(address);

    /// <inheritdoc/>
    public void Upload(View destination, ReadOnlySpan<byte> source)
    {
        if (source.Length != destination.Bytes)
            throw new ArgumentException($"Upload: {source.Length} bytes into a view of {destination.Bytes}");
        Context.Upload(destination.Address, source);
        Interlocked.Add(ref _uploadedBytes, (source.Length + IRecording.UploadUnit - 1) & -IRecording.UploadUnit);
    }

    /// <inheritdoc/>
    public void Download(Span<byte> destination, View source)
    {
        if (destination.Length != source.Bytes)
            throw new ArgumentException($"Download: a view of {source.Bytes} bytes into {destination.Length}");
        Context.Download(destination, source.Address);
    }

    /// <inheritdoc/>
    public void Copy(View dst, View src)
    {
        if (dst.Type != src.Type || dst.Length != src.Length)
            throw new ArgumentException($"Copy: {src.Length} × {src.Type} into {dst.Length} × {dst.Type}");
        Context.Copy(dst.Address, src.Address, dst.Bytes);
    }

    /// <inheritdoc/>
    public void Fill(View dst, float value)
    {
        dst.Require(dst.Length, DType.F32, nameof(Fill), nameof(dst));
        Context.Fill(dst.Address, BitConverter.SingleToUInt32Bits(value), dst.Length);
    }

    /// <inheritdoc/>
    public void Dispose()
    {
        if (_disposed)
            return;
        _disposed = true;
        CudaException? first = null;
        try
        {
            // All of it, whatever the driver says to one.
            foreach (nint address in (IEnumerable<nint>)[_scratch.Address, _unpacked.Address, _roundedA.Address, _roundedB.Address, _roundedTerm.Address, _widenedA.Address, _widenedC.Address, .. _tables.Values, .. _decodedBlocks.Select(d => d.Address)])
            {
                try
                {
                    Context.Free(address);
                }
                catch (CudaException e)
                {
                    first ??= e;
                }
            }
            if (first is not null)
                throw first;
        }
        finally
        {
            try
            {
                _solver?.Dispose();
                _products?.Dispose();
            }
            finally
            {
                DisposeDevice();
            }
        }
    }

    private void DisposeDevice()
    {
        foreach (CudaModule module in _modules.Values)
            module.Dispose();
        Context.Dispose();
        _ownedDriver?.Dispose();
    }

    /// <summary>A kernel of an image; the image is compiled by the driver when its first kernel is asked for.</summary>
    internal CudaFunction Kernel(string image, string name) =>
        _functions.TryGetValue(name, out CudaFunction? known) ? known : _functions.GetOrAdd(name, n => Module(image).Function(n));

    private CudaModule Module(string image)
    {
        lock (_lock)
        {
            if (!_modules.TryGetValue(image, out CudaModule? module))
                _modules[image] = module = Context.LoadModule(image, KernelImages.Read(image));
            return module;
        }
    }

    /// <summary>
    /// Device memory for partial results within one op, valid until the next op asks: work is queued in order on one stream, so the next op's kernels
    /// come after those that read it, as long as one op is called at a time. The lock keeps the room whole, not its contents. Grows and is kept,
    /// so that ops allocate nothing in the steady state.
    /// </summary>
    private nint Scratch(long bytes) => Scratch(bytes, ref _scratch);

    private nint Scratch(long bytes, ref ScratchRoom room)
    {
        lock (_lock)
        {
            if (bytes <= room.Bytes)
                return room.Address;
            if (room.Address != 0)
            {
                nint old = room.Address;
                room = default;
                Interlocked.Increment(ref _moves);
                Context.Synchronize();
                Context.Free(old);
            }
            long size = Math.Max(1 << 20, (bytes + (bytes >> 2) + 255) & ~255L);
            room = new ScratchRoom(AllocateOrMakeRoom(size), size);
            return room.Address;
        }
    }

    private readonly record struct ScratchRoom(nint Address, long Bytes);

    /// <summary>⌈n / by⌉ as a grid's size; throws where it passes what a grid can be.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static uint Blocks(long n, int by)
    {
        long blocks = (n + by - 1) / by;
        return blocks <= int.MaxValue ? (uint)blocks : throw new ArgumentException($"{n} elements need {blocks} blocks, a grid holds {int.MaxValue}");
    }
}
