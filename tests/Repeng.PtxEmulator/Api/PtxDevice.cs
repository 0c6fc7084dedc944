using Repeng.PtxEmulator.Memory;

namespace Repeng.PtxEmulator;

/// <summary>A finished launch and what it counted.</summary>
public sealed record LaunchRecord(string Kernel, (int X, int Y, int Z) Grid, (int X, int Y, int Z) Block, long DynamicShared, LaunchCounters Counters, TimeSpan Elapsed);

/// <summary>
/// A GPU that is none: device memory, modules of PTX, launches, streams, events and graphs, close to the driver's API. Thread-safe; work runs on the thread that waits for it.
/// After a fault in a kernel every call that runs work gives that fault again, as a broken context does.
/// </summary>
public sealed partial class PtxDevice : IDisposable
{
    private readonly Lock _lock = new();
    private readonly List<PtxModule> _modules = [];
    private readonly List<PtxStream> _streams = [];
    private int _events;
    private int _graphs;
    private uint _tick = 1;
    private long _launches;
    private bool _disposed;

    public PtxDevice(EmulatorOptions? options = null)
    {
        Options = options ?? new EmulatorOptions();
        Memory = new DeviceMemory(Options.DeviceMemory, Options.CheckInitialization);
        DefaultStream = new PtxStream(this, blocking: true);
    }

    public EmulatorOptions Options { get; }

    internal DeviceMemory Memory { get; }

    public PtxStream DefaultStream { get; }

    /// <summary>The fault that broke the context, or null.</summary>
    public EmulatorException? Fault { get; private set; }

    /// <summary>Called after each launch, on the thread that ran it.</summary>
    public Action<LaunchRecord>? LaunchCompleted { get; set; }

    /// <summary>The launch that ran last.</summary>
    public LaunchRecord? LastLaunch { get; private set; }

    public long FreeBytes => Memory.Capacity - Memory.Used;

    public long UsedBytes => Memory.Used;

    /// <summary>Device memory of this many bytes, aligned to 256, unwritten.</summary>
    /// <exception cref="DeviceOutOfMemoryException">There is not enough.</exception>
    public ulong Allocate(long bytes)
    {
        lock (_lock)
            return Memory.Allocate(bytes, "allocation").Address;
    }

    /// <summary>Frees device memory after everything enqueued so far is done, as the driver does.</summary>
    /// <exception cref="DoubleFreeException">It was freed before.</exception>
    public void Free(ulong address)
    {
        lock (_lock)
        {
            if (Fault is null)
                RunAll();
            Memory.Free(address);
        }
    }

    /// <summary>Frees device memory when the stream comes to it.</summary>
    public void FreeAsync(ulong address, PtxStream stream) => Enqueue(stream, "free", () => Memory.Free(address));

    /// <summary>Makes host memory visible to the device: pinned, so that copies of it run when their stream does.</summary>
    public unsafe ulong RegisterHost(void* host, long bytes)
    {
        lock (_lock)
            return Memory.Allocate(bytes, "host memory", readOnly: false, (byte*)host).Address;
    }

    internal unsafe Span<byte> Bytes(Allocation allocation, long offset, long count) => new(allocation.Host + offset, checked((int)count));

    private unsafe bool IsPinned(void* host, long bytes)
        => Memory.Live.Any(a => a.Kind == "host memory" && (byte*)host >= a.Host && (byte*)host + bytes <= a.Host + a.Size);

    /// <summary>Copies to the device and waits.</summary>
    public unsafe void CopyToDevice(ulong to, ReadOnlySpan<byte> from)
    {
        fixed (byte* source = from)
            CopyToDevice(to, source, from.Length, DefaultStream);
        Synchronize(DefaultStream);
    }

    /// <summary>Copies to the host and waits.</summary>
    public unsafe void CopyToHost(Span<byte> to, ulong from)
    {
        fixed (byte* target = to)
            CopyToHost(target, from, to.Length, DefaultStream);
        Synchronize(DefaultStream);
    }

    /// <summary>Copies to the device in a stream. Pageable memory is read at once, pinned memory when the copy runs.</summary>
    public unsafe void CopyToDevice(ulong to, void* from, long bytes, PtxStream stream)
    {
        lock (_lock)
        {
            if (bytes == 0)
                return;
            Memory.Range(to, bytes, "a copy to the device");
            nint source = (nint)from;
            byte[]? staged = null;
            if (!IsPinned(from, bytes))
                staged = new Span<byte>(from, checked((int)bytes)).ToArray();
            Enqueue(stream, "copy to the device", () =>
            {
                (Allocation allocation, long offset) = Memory.Range(to, bytes, "a copy to the device");
                (staged is null ? new Span<byte>((void*)source, (int)bytes) : staged).CopyTo(Bytes(allocation, offset, bytes));
                MarkWritten(allocation, offset, bytes);
            });
        }
    }

    /// <summary>Copies to the host in a stream. A copy to pageable memory waits for the stream, as the driver's does.</summary>
    public unsafe void CopyToHost(void* to, ulong from, long bytes, PtxStream stream)
    {
        lock (_lock)
        {
            if (bytes == 0)
                return;
            nint target = (nint)to;
            bool pinned = IsPinned(to, bytes);
            Enqueue(stream, "copy to the host", () =>
            {
                (Allocation allocation, long offset) = Memory.Range(from, bytes, "a copy to the host");
                if (allocation.Written is { } written)
                    for (long at = 0; at < bytes; at += 1 << 20)
                        if (!written.Test(offset + at, (int)Math.Min(1 << 20, bytes - at)))
                            throw new HostAccessException($"a copy to the host of {bytes} bytes at 0x{from:x} has bytes that were never written: {Memory.Describe(from)}, first at +{FirstUnwritten(written, offset, bytes)}");
                Bytes(allocation, offset, bytes).CopyTo(new Span<byte>((void*)target, (int)bytes));
            });
            if (!pinned && !stream.IsCapturing)
                RunUntil(stream, stream.Enqueued);
        }
    }

    private static long FirstUnwritten(ByteBits written, long offset, long bytes)
    {
        for (long at = 0; at < bytes; at++)
            if (!written.Test(offset + at, 1))
                return at;
        return bytes;
    }

    /// <summary>Copies from device to device. Bytes that were never written stay so.</summary>
    public unsafe void CopyOnDevice(ulong to, ulong from, long bytes, PtxStream stream) => Enqueue(stream, "copy on the device", () =>
    {
        if (bytes == 0)
            return;
        (Allocation source, long sourceOffset) = Memory.Range(from, bytes, "a copy on the device");
        (Allocation target, long offset) = Memory.Range(to, bytes, "a copy on the device");
        Bytes(source, sourceOffset, bytes).CopyTo(Bytes(target, offset, bytes));
        target.Written?.CopyFrom(source.Written, sourceOffset, offset, bytes);
    });

    /// <summary>Fills with a pattern of 1, 2 or 4 bytes.</summary>
    public void Fill(ulong to, uint pattern, int patternBytes, long count, PtxStream stream) => Enqueue(stream, "fill", () =>
    {
        if (count == 0)
            return;
        if (to % (ulong)patternBytes != 0)
            throw new HostAccessException($"a fill with patterns of {patternBytes} bytes at 0x{to:x}");
        long bytes = count * patternBytes;
        (Allocation allocation, long offset) = Memory.Range(to, bytes, "a fill");
        Span<byte> span = Bytes(allocation, offset, bytes);
        for (int k = 0; k < span.Length; k++)
            span[k] = (byte)(pattern >> (8 * (k % patternBytes)));
        MarkWritten(allocation, offset, bytes);
    });

    private static void MarkWritten(Allocation allocation, long offset, long bytes)
    {
        if (bytes == allocation.Size)
        {
            // Written once is written for ever.
            allocation.Written?.Dispose();
            allocation.Written = null;
            return;
        }

        allocation.Written?.Set(offset, bytes);
    }

    /// <summary>Parses a module, decodes all its kernels and places its variables.</summary>
    /// <exception cref="PtxSyntaxException">The text is no PTX, or uses something unknown.</exception>
    public PtxModule LoadModule(string ptx)
    {
        lock (_lock)
        {
            var module = new PtxModule(this, ptx);
            _modules.Add(module);
            return module;
        }
    }

    public void UnloadModule(PtxModule module)
    {
        lock (_lock)
        {
            if (!_modules.Remove(module))
                throw new InvalidCallException("the module is not loaded", 400);
            if (Fault is null)
                RunAll();
            module.Unload();
        }
    }

    /// <summary>Ends the context.</summary>
    /// <exception cref="LeakException">Something is still alive, and <see cref="EmulatorOptions.CheckLeaks"/> is on. All is freed even so.</exception>
    public void Dispose()
    {
        lock (_lock)
        {
            if (_disposed)
                return;
            _disposed = true;
            string[] leaks = [.. Memory.Live.Where(a => !a.Kind.StartsWith("variable", StringComparison.Ordinal)).Select(a => a.ToString())];
            string rest = string.Join(", ", new[] { (_modules.Count, "modules"), (_streams.Count, "streams"), (_events, "events"), (_graphs, "graphs") }.Where(p => p.Item1 > 0).Select(p => $"{p.Item1} {p.Item2}"));
            Memory.Dispose();
            if (Options.CheckLeaks && Fault is null && (leaks.Length > 0 || rest.Length > 0))
                throw new LeakException($"the context ends with {string.Join("; ", leaks.Take(10))}{(leaks.Length > 10 ? $" and {leaks.Length - 10} more" : "")}{(leaks.Length > 0 && rest.Length > 0 ? ", and " : "")}{rest} still alive");
        }
    }
}
