using Repeng.Kernels.Cuda.Interop;

namespace Repeng.Kernels.Cuda;

public sealed unsafe partial class CudaContext
{
    /// <summary>Records what <paramref name="queue"/> queues, without running it, as a graph that can be launched again and again.</summary>
    public CudaGraphHandle Capture(Action queue) => Capture(queue, 0, out _);

    /// <summary>As the other one, where uploads are recorded too: as copies out of pinned memory, which must live as long as the graph.</summary>
    /// <param name="queue">Queues work on this thread. Throws <see cref="NotRecordableException"/> where it waits, downloads, allocates, frees or loads.</param>
    /// <param name="uploadBytes">Room for what it uploads, each upload rounded up to <see cref="IRecording.UploadUnit"/>.</param>
    /// <param name="uploads">The pinned memory; null where there is none.</param>
    public CudaGraphHandle Capture(Action queue, long uploadBytes, out CudaHostMemoryHandle? uploads)
    {
        ArgumentNullException.ThrowIfNull(queue);
        RequireNotRecording("a recording");
        uploads = null;
        // Before the capture: the driver may refuse to allocate within it.
        CudaHostMemoryHandle? room = uploadBytes > 0 ? AllocatePinned(uploadBytes) : null;
        try
        {
            CudaGraphHandle graph = Instantiate(Recorded(queue, room));
            uploads = room;
            return graph;
        }
        catch
        {
            room?.Dispose();
            throw;
        }
    }

    /// <summary>Queues a captured graph.</summary>
    public void Launch(CudaGraphHandle graph)
    {
        ArgumentNullException.ThrowIfNull(graph);
        MakeCurrent();
        CountWrite();
        Check(Driver.GraphLaunch(graph.Value, Stream.Value), "cuGraphLaunch");
    }

    /// <summary>Waits for everything queued, where there is a device left to wait for.</summary>
    internal void Settle()
    {
        if (!_disposed && _lost is null)
            Synchronize();
    }

    private Recording? Mine => _recording is { } r && r.Thread == Environment.CurrentManagedThreadId ? r : null;

    /// <summary>Whether this thread records.</summary>
    internal bool IsRecording => Mine is not null;

    private void RequireNotRecording(string what)
    {
        if (Mine is not null)
            throw new NotRecordableException(what);
    }

    private nint Recorded(Action queue, CudaHostMemoryHandle? room)
    {
        MakeCurrent();
        // What is recorded runs later, after other work: it must not count on what lies in memory now, nor may others on what it was to write.
        CountWrite();
        Check(Driver.StreamBeginCapture(Stream.Value), "cuStreamBeginCapture");
        _recording = new Recording(room);
        nint graph;
        try
        {
            queue();
        }
        catch
        {
            Abandon();
            throw;
        }
        finally
        {
            _recording = null;
            CountWrite();
        }
        CuResult ended = Driver.StreamEndCapture(Stream.Value, out graph);
        if (ended != CuResult.Success)
        {
            Abandon();
            Check(ended, "cuStreamEndCapture");
        }
        return graph;
    }

    // The stream must leave its capture before it can be used or destroyed. Where it has left it already the driver says so, and nothing more.
    private void Abandon()
    {
        if (Driver.StreamEndCapture(Stream.Value, out nint graph) == CuResult.Success && graph != 0)
            Driver.GraphDestroy(graph);
    }

    private CudaGraphHandle Instantiate(nint graph)
    {
        CuResult result = Driver.GraphInstantiate(out nint executable, graph, 0);
        CuResult destroyed = Driver.GraphDestroy(graph);
        Check(result, "cuGraphInstantiateWithFlags");
        var handle = new CudaGraphHandle(Driver, _handle, executable);
        if (destroyed != CuResult.Success)
        {
            handle.Dispose();
            Check(destroyed, "cuGraphDestroy");
        }
        return handle;
    }

    // What is being recorded on a thread, and the memory of its uploads.
    private sealed class Recording(CudaHostMemoryHandle? room)
    {
        private long _used;

        public int Thread { get; } = Environment.CurrentManagedThreadId;

        public byte* Keep(ReadOnlySpan<byte> bytes)
        {
            if (room is null || _used + bytes.Length > room.Bytes)
                throw new NotRecordableException($"an upload of {bytes.Length} bytes beside {_used} in room for {room?.Bytes ?? 0}");
            byte* at = (byte*)room.Value + _used;
            bytes.CopyTo(new Span<byte>(at, bytes.Length));
            _used += (bytes.Length + IRecording.UploadUnit - 1) & -IRecording.UploadUnit;
            return at;
        }
    }
}
