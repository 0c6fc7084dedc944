using System.Text;
using Repeng.Kernels.Cuda.Interop;

namespace Repeng.Kernels.Cuda;

/// <summary>
/// A device in use: its primary context and one stream, on which everything is queued in order. Safe to call from any
/// thread; each call makes the context current on its thread first. After a kernel fault every further call fails with what happened.
/// </summary>
public sealed unsafe partial class CudaContext : IDisposable
{
    private const int LogBytes = 16384;
    private const uint NonBlocking = 1;

    private readonly CudaContextHandle _handle;
    private CudaException? _lost;
    private long _writes;
    private bool _disposed;

    // Of the thread that records; null while none does.
    private Recording? _recording;

    private CudaContext(CudaDriver driver, CudaDeviceInfo device, CudaContextHandle handle, CudaStreamHandle stream) =>
        (Driver, Device, _handle, Stream) = (driver, device, handle, stream);

    /// <summary>The table of functions.</summary>
    public CudaDriver Driver { get; }

    /// <summary>The device.</summary>
    public CudaDeviceInfo Device { get; }

    /// <summary>The stream of all work.</summary>
    public CudaStreamHandle Stream { get; }

    /// <summary>Opens a device; nothing is left behind where that fails.</summary>
    public static CudaContext Open(CudaDriver driver, CudaDeviceInfo device)
    {
        ArgumentNullException.ThrowIfNull(driver);
        ArgumentNullException.ThrowIfNull(device);
        CudaException.Check(driver, driver.DeviceGet(out int number, device.Ordinal), "cuDeviceGet");
        CudaException.Check(driver, driver.DevicePrimaryCtxRetain(out nint context, number), "cuDevicePrimaryCtxRetain", device.Name);
        var handle = new CudaContextHandle(driver, number, context);
        try
        {
            CudaException.Check(driver, driver.CtxSetCurrent(context), "cuCtxSetCurrent");
            CudaException.Check(driver, driver.StreamCreate(out nint stream, NonBlocking), "cuStreamCreate");
            return new CudaContext(driver, device, handle, new CudaStreamHandle(driver, handle, stream));
        }
        catch
        {
            handle.Dispose();
            throw;
        }
    }

    /// <summary>
    /// Makes the context current on this thread; asked of the driver each time, as another library in the process may have set its own since. Throws what
    /// went wrong before where the device was lost.
    /// </summary>
    public void MakeCurrent()
    {
        ObjectDisposedException.ThrowIf(_disposed, this);
        if (_lost is not null)
            throw _lost;
        Check(Driver.CtxSetCurrent(_handle.Context), "cuCtxSetCurrent");
    }

    /// <summary>Throws unless the result is success; remembers a lost device.</summary>
    public void Check(CuResult result, string function, string? detail = null)
    {
        if (result == CuResult.Success)
            return;
        CudaException e = CudaException.Create(Driver, result, function, detail);
        if (e.DeviceLost)
            _lost ??= e;
        throw e;
    }

    /// <summary>Number of calls so far that may write device memory; the same number again says that nothing was written since.</summary>
    internal long Writes => Volatile.Read(ref _writes);

    /// <summary>Work that may write device memory is about to be queued.</summary>
    internal void CountWrite() => Interlocked.Increment(ref _writes);

    /// <summary>Free and total memory of the device, bytes.</summary>
    public (long Free, long Total) Memory()
    {
        MakeCurrent();
        Check(Driver.MemGetInfo(out nuint free, out nuint total), "cuMemGetInfo");
        return ((long)free, (long)total);
    }

    /// <summary>Allocates zeroed device memory. Out of memory is told with what was asked, free and total.</summary>
    public nint Allocate(long bytes)
    {
        ArgumentOutOfRangeException.ThrowIfNegative(bytes);
        RequireNotRecording("an allocation");
        MakeCurrent();
        CuResult result = Driver.MemAlloc(out nint address, (nuint)Math.Max(bytes, 1));
        if (result == CuResult.OutOfMemory)
        {
            string state = Driver.MemGetInfo(out nuint free, out nuint total) == CuResult.Success ? $", of which {Mebibytes((long)free)} are free of {Mebibytes((long)total)} on {Device.Name}" : $" on {Device.Name}";
            Check(result, "cuMemAlloc", Mebibytes(bytes) + " more were asked" + state);
        }
        Check(result, "cuMemAlloc", Mebibytes(bytes));
        CountWrite();
        result = Driver.MemsetD8Async(address, 0, (nuint)Math.Max(bytes, 1), Stream.Value);
        if (result != CuResult.Success)
        {
            Driver.MemFree(address);
            Check(result, "cuMemsetD8Async");
        }
        return address;
    }

    /// <summary>Frees what <see cref="Allocate"/> gave; waits for work that uses it.</summary>
    public void Free(nint address)
    {
        if (address == 0 || _disposed)
            return;
        // A lost context has taken its memory with it.
        if (_lost is not null)
            return;
        RequireNotRecording("freeing memory");
        // Freed whatever the first of the two says: nobody would try again.
        CuResult current = Driver.CtxSetCurrent(_handle.Context), freed = Driver.MemFree(address);
        Check(current, "cuCtxSetCurrent");
        Check(freed, "cuMemFree");
    }

    /// <summary>Pinned host memory, for copies that overlap with work.</summary>
    public CudaHostMemoryHandle AllocatePinned(long bytes)
    {
        ArgumentOutOfRangeException.ThrowIfNegativeOrZero(bytes);
        MakeCurrent();
        Check(Driver.MemHostAlloc(out nint address, (nuint)bytes, 0), "cuMemHostAlloc", Mebibytes(bytes) + " of pinned host memory");
        return new CudaHostMemoryHandle(Driver, _handle, address, bytes);
    }

    /// <summary>Copies host memory to the device, in stream order; the source may be reused on return.</summary>
    public void Upload(nint destination, ReadOnlySpan<byte> source)
    {
        if (source.IsEmpty)
            return;
        MakeCurrent();
        if (Mine is { } recording)
        {
            // The copy that is recorded reads memory of the recording's own.
            byte* kept = recording.Keep(source);
            Check(Driver.MemcpyHtoDAsync(destination, kept, (nuint)source.Length, Stream.Value), "cuMemcpyHtoDAsync", Mebibytes(source.Length));
            return;
        }
        fixed (byte* from = source)
        {
            CountWrite();
            Check(Driver.MemcpyHtoDAsync(destination, from, (nuint)source.Length, Stream.Value), "cuMemcpyHtoDAsync", Mebibytes(source.Length));
            Synchronize();
        }
    }

    /// <summary>Copies device memory to the host after all work that was queued before it.</summary>
    public void Download(Span<byte> destination, nint source)
    {
        if (destination.IsEmpty)
            return;
        RequireNotRecording("a download");
        MakeCurrent();
        fixed (byte* to = destination)
        {
            Check(Driver.MemcpyDtoHAsync(to, source, (nuint)destination.Length, Stream.Value), "cuMemcpyDtoHAsync", Mebibytes(destination.Length));
            Synchronize();
        }
    }

    /// <summary>Copies device memory, in stream order.</summary>
    public void Copy(nint destination, nint source, long bytes)
    {
        if (bytes == 0)
            return;
        MakeCurrent();
        CountWrite();
        Check(Driver.MemcpyDtoDAsync(destination, source, (nuint)bytes, Stream.Value), "cuMemcpyDtoDAsync");
    }

    /// <summary>Every 32-bit word of [destination, destination + 4·count) becomes value, in stream order.</summary>
    public void Fill(nint destination, uint value, long count)
    {
        if (count == 0)
            return;
        MakeCurrent();
        CountWrite();
        Check(Driver.MemsetD32Async(destination, value, (nuint)count, Stream.Value), "cuMemsetD32Async");
    }

    /// <summary>Waits for everything queued; a kernel that failed is told here at the latest.</summary>
    public void Synchronize()
    {
        RequireNotRecording("waiting for the device");
        MakeCurrent();
        Check(Driver.StreamSynchronize(Stream.Value), "cuStreamSynchronize", "a kernel queued before it may be the cause");
    }

    /// <summary>Compiles PTX text for this device. The driver's messages are in the error text.</summary>
    /// <param name="name">What to call it in messages.</param>
    /// <param name="ptx">PTX text, UTF-8.</param>
    public CudaModule LoadModule(string name, ReadOnlySpan<byte> ptx)
    {
        RequireNotRecording("loading kernels");
        MakeCurrent();
        byte[] image = new byte[ptx.Length + 1], log = new byte[LogBytes];
        ptx.CopyTo(image);
        fixed (byte* text = image, errors = log)
        {
            CuJitOption* options = stackalloc CuJitOption[] { CuJitOption.ErrorLogBuffer, CuJitOption.ErrorLogBufferSizeBytes };
            void** values = stackalloc void*[] { errors, (void*)LogBytes };
            CuResult result = Driver.ModuleLoadDataEx(out nint module, text, 2, options, values);
            if (result != CuResult.Success)
            {
                int length = Array.IndexOf(log, (byte)0);
                string said = Encoding.UTF8.GetString(log, 0, length < 0 ? LogBytes : length).Trim();
                Check(result, "cuModuleLoadDataEx", $"kernels {name}{(said.Length > 0 ? $"; the driver's compiler says: {said}" : "")}");
            }
            return new CudaModule(this, name, new CudaModuleHandle(Driver, _handle, module));
        }
    }

    /// <summary>A new event.</summary>
    public CudaEventHandle CreateEvent()
    {
        MakeCurrent();
        Check(Driver.EventCreate(out nint evt, 0), "cuEventCreate");
        return new CudaEventHandle(Driver, _handle, evt);
    }

    /// <summary>Milliseconds on the device for what <paramref name="queue"/> queues.</summary>
    public float Time(Action queue)
    {
        ArgumentNullException.ThrowIfNull(queue);
        using CudaEventHandle start = CreateEvent(), end = CreateEvent();
        Check(Driver.EventRecord(start.Value, Stream.Value), "cuEventRecord");
        queue();
        Check(Driver.EventRecord(end.Value, Stream.Value), "cuEventRecord");
        Check(Driver.EventSynchronize(end.Value), "cuEventSynchronize");
        Check(Driver.EventElapsedTime(out float milliseconds, start.Value, end.Value), "cuEventElapsedTime");
        return milliseconds;
    }

    /// <inheritdoc/>
    public void Dispose()
    {
        if (_disposed)
            return;
        _disposed = true;
        Stream.Dispose();
        _handle.Dispose();
    }

    private static string Mebibytes(long bytes) => $"{bytes / 1048576.0:F1} MiB";
}
