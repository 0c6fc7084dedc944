namespace Repeng.PtxEmulator;

/// <summary>Something that a stream will do.</summary>
internal sealed record Work(string Name, Action Run, (PtxStream Stream, long Until)[] After);

/// <summary>
/// A queue of work. Nothing runs before somebody waits for it (a synchronisation, a blocking copy, an event), so that a host that forgets to wait sees old data.
/// </summary>
public sealed class PtxStream
{
    internal PtxStream(PtxDevice device, bool blocking)
    {
        Device = device;
        Blocking = blocking;
    }

    internal PtxDevice Device { get; }

    /// <summary>Ordered with the default stream.</summary>
    public bool Blocking { get; }

    internal Queue<Work> Queue { get; } = new();

    internal long Enqueued { get; set; }

    internal long Completed { get; set; }

    internal bool Destroyed { get; set; }

    /// <summary>The graph that is being recorded, if any.</summary>
    internal PtxGraph? Capture { get; set; }

    public bool IsCapturing => Capture is not null;

    public override string ToString() => this == Device.DefaultStream ? "the default stream" : "a stream";
}

/// <summary>A mark in a stream.</summary>
public sealed class PtxEvent
{
    internal PtxStream? Stream { get; set; }

    internal long Until { get; set; }

    internal long Timestamp { get; set; }

    internal PtxGraph? Capture { get; set; }

    internal bool Destroyed { get; set; }
}

/// <summary>Recorded work that can be launched as one.</summary>
public sealed class PtxGraph
{
    internal List<Work> Nodes { get; } = [];

    internal PtxStream? Origin { get; set; }

    internal List<PtxStream> Streams { get; } = [];

    internal bool Destroyed { get; set; }

    /// <summary>Kernels, copies and fills in it.</summary>
    public int NodeCount => Nodes.Count;
}
