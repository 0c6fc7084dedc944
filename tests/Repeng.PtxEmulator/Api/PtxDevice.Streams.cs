using System.Diagnostics;

namespace Repeng.PtxEmulator;

public sealed partial class PtxDevice
{
    /// <summary>A new stream. A blocking one is ordered with the default stream.</summary>
    public PtxStream CreateStream(bool blocking = true)
    {
        lock (_lock)
        {
            var stream = new PtxStream(this, blocking);
            _streams.Add(stream);
            return stream;
        }
    }

    /// <summary>Ends a stream after its work is done.</summary>
    public void DestroyStream(PtxStream stream)
    {
        lock (_lock)
        {
            if (!_streams.Remove(stream))
                throw new InvalidCallException("no such stream", 400);
            stream.Destroyed = true;
            if (Fault is null)
                RunUntil(stream, stream.Enqueued);
        }
    }

    private void Enqueue(PtxStream stream, string name, Action run)
    {
        lock (_lock)
        {
            Check(stream);
            if (stream.Capture is { } graph)
            {
                graph.Nodes.Add(new Work(name, run, []));
                return;
            }

            var after = new List<(PtxStream, long)>();
            if (stream == DefaultStream)
                after.AddRange(_streams.Where(s => s.Blocking && s.Enqueued > s.Completed).Select(s => (s, s.Enqueued)));
            else if (stream.Blocking && DefaultStream.Enqueued > DefaultStream.Completed)
                after.Add((DefaultStream, DefaultStream.Enqueued));
            stream.Queue.Enqueue(new Work(name, run, [.. after]));
            stream.Enqueued++;
        }
    }

    private void Check(PtxStream stream)
    {
        if (_disposed)
            throw new InvalidCallException("the context has ended", 201);
        if (stream.Device != this || stream.Destroyed)
            throw new InvalidCallException("no such stream", 400);
        ThrowFault();
    }

    private void ThrowFault()
    {
        if (Fault is not null)
            throw Fault;
    }

    private void RunUntil(PtxStream stream, long until)
    {
        while (stream.Completed < until)
        {
            Work work = stream.Queue.Dequeue();
            foreach ((PtxStream other, long mark) in work.After)
                RunUntil(other, mark);
            stream.Completed++;
            Run(work);
        }
    }

    private void Run(Work work)
    {
        try
        {
            work.Run();
        }
        catch (KernelFaultException fault)
        {
            Fault = fault;
            foreach (PtxStream stream in _streams.Append(DefaultStream))
            {
                stream.Queue.Clear();
                stream.Completed = stream.Enqueued;
            }

            throw;
        }
    }

    private void RunAll()
    {
        foreach (PtxStream stream in _streams.Append(DefaultStream))
            RunUntil(stream, stream.Enqueued);
    }

    /// <summary>Waits for a stream; runs its work, and throws what goes wrong in it.</summary>
    public void Synchronize(PtxStream stream)
    {
        lock (_lock)
        {
            Check(stream);
            if (stream.IsCapturing)
                throw new InvalidCallException("a stream that records a graph cannot be waited for", 900);
            RunUntil(stream, stream.Enqueued);
        }
    }

    /// <summary>Waits for everything.</summary>
    public void Synchronize()
    {
        lock (_lock)
        {
            ThrowFault();
            if (_streams.Exists(s => s.IsCapturing))
                throw new InvalidCallException("a stream records a graph", 900);
            RunAll();
        }
    }

    /// <summary>Whether a stream is done. Each call lets one more piece of its work run, as time would.</summary>
    public bool Query(PtxStream stream)
    {
        lock (_lock)
        {
            Check(stream);
            if (stream.Completed < stream.Enqueued)
                RunUntil(stream, stream.Completed + 1);
            return stream.Completed == stream.Enqueued;
        }
    }

    public PtxEvent CreateEvent()
    {
        lock (_lock)
        {
            _events++;
            return new PtxEvent();
        }
    }

    public void DestroyEvent(PtxEvent mark)
    {
        lock (_lock)
        {
            if (mark.Destroyed)
                throw new InvalidCallException("the event was destroyed before", 400);
            mark.Destroyed = true;
            _events--;
        }
    }

    /// <summary>Marks the place that the stream has come to.</summary>
    public void Record(PtxEvent mark, PtxStream stream)
    {
        lock (_lock)
        {
            Check(stream);
            Alive(mark);
            if (stream.Capture is { } graph)
            {
                mark.Capture = graph;
                return;
            }

            mark.Capture = null;
            Enqueue(stream, "event", () => mark.Timestamp = Stopwatch.GetTimestamp());
            mark.Stream = stream;
            mark.Until = stream.Enqueued;
        }
    }

    private static void Alive(PtxEvent mark)
    {
        if (mark.Destroyed)
            throw new InvalidCallException("the event was destroyed", 400);
    }

    /// <summary>The stream goes on only after the event.</summary>
    public void Wait(PtxStream stream, PtxEvent mark)
    {
        lock (_lock)
        {
            Check(stream);
            Alive(mark);
            if (mark.Capture is { } graph)
            {
                if (!stream.IsCapturing)
                {
                    stream.Capture = graph;
                    graph.Streams.Add(stream);
                }

                return;
            }

            if (stream.IsCapturing)
                throw new InvalidCallException("a stream that records a graph waits for an event from outside of it", 905);
            if (mark.Stream is null)
                return;
            (PtxStream Stream, long Until) after = (mark.Stream, mark.Until);
            stream.Queue.Enqueue(new Work("wait", static () => { }, [after]));
            stream.Enqueued++;
        }
    }

    public void Synchronize(PtxEvent mark)
    {
        lock (_lock)
        {
            ThrowFault();
            Alive(mark);
            if (mark.Stream is not null)
                RunUntil(mark.Stream, mark.Until);
        }
    }

    /// <summary>Whether an event has come to pass; lets one more piece of its stream's work run.</summary>
    public bool Query(PtxEvent mark)
    {
        lock (_lock)
        {
            ThrowFault();
            Alive(mark);
            if (mark.Stream is null || mark.Stream.Completed >= mark.Until)
                return true;
            RunUntil(mark.Stream, mark.Stream.Completed + 1);
            return mark.Stream.Completed >= mark.Until;
        }
    }

    /// <summary>Milliseconds from one event to another: the emulator's time, not a GPU's.</summary>
    public double Elapsed(PtxEvent start, PtxEvent end)
    {
        lock (_lock)
        {
            if (start.Stream is null || end.Stream is null)
                throw new InvalidCallException("an event was never recorded", 400);
            if (start.Stream.Completed < start.Until || end.Stream.Completed < end.Until)
                throw new InvalidCallException("an event has not come to pass", 600);
            return Stopwatch.GetElapsedTime(start.Timestamp, end.Timestamp).TotalMilliseconds;
        }
    }

    /// <summary>From here on what is enqueued in the stream is recorded instead.</summary>
    public void BeginCapture(PtxStream stream)
    {
        lock (_lock)
        {
            Check(stream);
            if (stream == DefaultStream)
                throw new InvalidCallException("the default stream cannot be recorded", 900);
            if (stream.IsCapturing)
                throw new InvalidCallException("the stream records already", 901);
            var graph = new PtxGraph { Origin = stream };
            graph.Streams.Add(stream);
            stream.Capture = graph;
        }
    }

    public PtxGraph EndCapture(PtxStream stream)
    {
        lock (_lock)
        {
            if (stream.Capture is not { } graph || graph.Origin != stream)
                throw new InvalidCallException("the stream did not begin a recording", 903);
            foreach (PtxStream part in graph.Streams)
                part.Capture = null;
            _graphs++;
            return graph;
        }
    }

    /// <summary>Runs the recorded work in the order of its recording.</summary>
    public void Launch(PtxGraph graph, PtxStream stream)
    {
        lock (_lock)
        {
            Check(stream);
            if (graph.Destroyed)
                throw new InvalidCallException("the graph was destroyed", 400);
            foreach (Work node in graph.Nodes)
                Enqueue(stream, node.Name, node.Run);
        }
    }

    public void DestroyGraph(PtxGraph graph)
    {
        lock (_lock)
        {
            if (graph.Destroyed)
                throw new InvalidCallException("the graph was destroyed before", 400);
            graph.Destroyed = true;
            _graphs--;
        }
    }
}
