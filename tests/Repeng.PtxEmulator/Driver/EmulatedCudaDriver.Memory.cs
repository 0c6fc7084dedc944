using System.Runtime.InteropServices;
using Repeng.Kernels.Cuda.Interop;

namespace Repeng.PtxEmulator.Driver;

public sealed unsafe partial class EmulatedCudaDriver
{
    private const nint DefaultPool = 2;
    private const uint NonBlocking = 1;

    /// <inheritdoc/>
    public override CuResult MemGetInfo(out nuint free, out nuint total)
    {
        (free, total) = ((nuint)Device.FreeBytes, (nuint)Device.Options.DeviceMemory);
        return CuResult.Success;
    }

    /// <inheritdoc/>
    public override CuResult MemAlloc(out nint address, nuint bytes)
    {
        nint made = 0;
        CuResult result = Run(() => made = (nint)Device.Allocate((long)bytes));
        address = made;
        return result;
    }

    /// <inheritdoc/>
    public override CuResult MemFree(nint address) => Run(() => Device.Free((ulong)address));

    /// <inheritdoc/>
    public override CuResult MemAllocAsync(out nint address, nuint bytes, nint stream)
    {
        address = 0;
        return FindStream(stream, out _) ? MemAlloc(out address, bytes) : CuResult.InvalidHandle;
    }

    /// <inheritdoc/>
    public override CuResult MemFreeAsync(nint address, nint stream) =>
        FindStream(stream, out PtxStream? s) ? Run(() => Device.FreeAsync((ulong)address, s!)) : CuResult.InvalidHandle;

    /// <inheritdoc/>
    public override CuResult DeviceGetDefaultMemPool(out nint pool, int device)
    {
        pool = DefaultPool;
        return CuResult.Success;
    }

    /// <inheritdoc/>
    public override CuResult MemPoolSetReleaseThreshold(nint pool, ulong bytes) => pool == DefaultPool ? CuResult.Success : CuResult.InvalidHandle;

    /// <inheritdoc/>
    public override CuResult MemPoolTrimTo(nint pool, nuint bytes) => pool == DefaultPool ? CuResult.Success : CuResult.InvalidHandle;

    /// <inheritdoc/>
    public override CuResult MemHostAlloc(out nint address, nuint bytes, uint flags)
    {
        var host = (nint)NativeMemory.AllocZeroed(bytes);
        ulong device = 0;
        CuResult result = Run(() => device = Device.RegisterHost((void*)host, (long)bytes));
        if (result != CuResult.Success)
        {
            NativeMemory.Free((void*)host);
            address = 0;
            return result;
        }
        lock (_lock)
            _pinned.Add(host, (host, device));
        address = host;
        return CuResult.Success;
    }

    /// <inheritdoc/>
    public override CuResult MemFreeHost(nint address)
    {
        (nint Host, ulong Device) pinned;
        lock (_lock)
            if (!_pinned.Remove(address, out pinned))
                return CuResult.InvalidValue;
        CuResult result = Run(() => Device.Free(pinned.Device));
        NativeMemory.Free((void*)pinned.Host);
        return result;
    }

    /// <inheritdoc/>
    public override CuResult MemcpyHtoDAsync(nint destination, void* source, nuint bytes, nint stream) =>
        FindStream(stream, out PtxStream? s) ? Run(() => Device.CopyToDevice((ulong)destination, source, (long)bytes, s!)) : CuResult.InvalidHandle;

    /// <inheritdoc/>
    public override CuResult MemcpyDtoHAsync(void* destination, nint source, nuint bytes, nint stream) =>
        FindStream(stream, out PtxStream? s) ? Run(() => Device.CopyToHost(destination, (ulong)source, (long)bytes, s!)) : CuResult.InvalidHandle;

    /// <inheritdoc/>
    public override CuResult MemcpyDtoDAsync(nint destination, nint source, nuint bytes, nint stream) =>
        FindStream(stream, out PtxStream? s) ? Run(() => Device.CopyOnDevice((ulong)destination, (ulong)source, (long)bytes, s!)) : CuResult.InvalidHandle;

    /// <inheritdoc/>
    public override CuResult MemsetD8Async(nint destination, byte value, nuint count, nint stream) =>
        FindStream(stream, out PtxStream? s) ? Run(() => Device.Fill((ulong)destination, value, 1, (long)count, s!)) : CuResult.InvalidHandle;

    /// <inheritdoc/>
    public override CuResult MemsetD32Async(nint destination, uint value, nuint count, nint stream) =>
        FindStream(stream, out PtxStream? s) ? Run(() => Device.Fill((ulong)destination, value, 4, (long)count, s!)) : CuResult.InvalidHandle;

    /// <inheritdoc/>
    public override CuResult StreamCreate(out nint stream, uint flags) => Make(() => Device.CreateStream(blocking: (flags & NonBlocking) == 0), out stream);

    /// <inheritdoc/>
    public override CuResult StreamDestroy(nint stream) => Destroy<PtxStream>(stream, Device.DestroyStream);

    /// <inheritdoc/>
    public override CuResult StreamSynchronize(nint stream) => FindStream(stream, out PtxStream? s) ? Run(() => Device.Synchronize(s!)) : CuResult.InvalidHandle;

    /// <inheritdoc/>
    public override CuResult StreamWaitEvent(nint stream, nint evt, uint flags) =>
        FindStream(stream, out PtxStream? s) && Find(evt, out PtxEvent? e) ? Run(() => Device.Wait(s!, e!)) : CuResult.InvalidHandle;

    /// <inheritdoc/>
    public override CuResult StreamBeginCapture(nint stream) => FindStream(stream, out PtxStream? s) ? Run(() => Device.BeginCapture(s!)) : CuResult.InvalidHandle;

    /// <inheritdoc/>
    public override CuResult StreamEndCapture(nint stream, out nint graph)
    {
        graph = 0;
        return FindStream(stream, out PtxStream? s) ? Make(() => Device.EndCapture(s!), out graph) : CuResult.InvalidHandle;
    }

    /// <inheritdoc/>
    public override CuResult EventCreate(out nint evt, uint flags) => Make(Device.CreateEvent, out evt);

    /// <inheritdoc/>
    public override CuResult EventDestroy(nint evt) => Destroy<PtxEvent>(evt, Device.DestroyEvent);

    /// <inheritdoc/>
    public override CuResult EventRecord(nint evt, nint stream) =>
        FindStream(stream, out PtxStream? s) && Find(evt, out PtxEvent? e) ? Run(() => Device.Record(e!, s!)) : CuResult.InvalidHandle;

    /// <inheritdoc/>
    public override CuResult EventSynchronize(nint evt) => Find(evt, out PtxEvent? e) ? Run(() => Device.Synchronize(e!)) : CuResult.InvalidHandle;

    /// <inheritdoc/>
    public override CuResult EventElapsedTime(out float milliseconds, nint start, nint end)
    {
        double elapsed = 0;
        CuResult result = Find(start, out PtxEvent? a) && Find(end, out PtxEvent? b) ? Run(() => elapsed = Device.Elapsed(a!, b!)) : CuResult.InvalidHandle;
        milliseconds = (float)elapsed;
        return result;
    }

    /// <inheritdoc/>
    public override CuResult GraphInstantiate(out nint executable, nint graph, ulong flags)
    {
        executable = 0;
        return Find(graph, out PtxGraph? g) ? Make(() => new Executable(g!), out executable) : CuResult.InvalidHandle;
    }

    /// <inheritdoc/>
    public override CuResult GraphLaunch(nint executable, nint stream) =>
        FindStream(stream, out PtxStream? s) && Find(executable, out Executable? e) ? Run(() => Device.Launch(e!.Graph, s!)) : CuResult.InvalidHandle;

    /// <inheritdoc/>
    public override CuResult GraphExecDestroy(nint executable) => Destroy<Executable>(executable, e => Device.DestroyGraph(e.Graph));

    // The driver's executable outlives the graph that it was made from, so the recorded work goes with it.
    /// <inheritdoc/>
    public override CuResult GraphDestroy(nint graph) => Destroy<PtxGraph>(graph, g =>
    {
        bool executable;
        lock (_lock)
            executable = _objects.Values.Any(o => o is Executable e && e.Graph == g);
        if (!executable)
            Device.DestroyGraph(g);
    });

    private sealed class Executable(PtxGraph graph)
    {
        public PtxGraph Graph { get; } = graph;
    }
}
