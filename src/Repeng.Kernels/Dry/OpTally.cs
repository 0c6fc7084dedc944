namespace Repeng.Kernels.Dry;

/// <summary>One op by what it must do.</summary>
/// <param name="Family">Its kind.</param>
/// <param name="Flops">Multiply-adds times two, of products; 0 for other families.</param>
/// <param name="Bytes">Bytes read and written if every operand crosses the memory bus once.</param>
/// <param name="M">Rows of a matrix product's result; 0 for other ops, as are <paramref name="N"/> and <paramref name="K"/>.</param>
/// <param name="N">Columns of a matrix product's result.</param>
/// <param name="K">Summands of each of its elements.</param>
public readonly record struct OpCost(OpFamily Family, double Flops, long Bytes, int M = 0, int N = 0, int K = 0)
{
    /// <summary>Seconds of the operations alone; rotations are computed in double, at half the rate.</summary>
    public double FlopSeconds(double flopsPerSecond) => (Family == OpFamily.Rotation ? 2 : 1) * Flops / flopsPerSecond;

    /// <summary>The least time of the op: that of its operations or that of its bytes, whichever is longer.</summary>
    public double Seconds(double flopsPerSecond, double bytesPerSecond) => Math.Max(FlopSeconds(flopsPerSecond), Bytes / bytesPerSecond);
}

/// <summary>Ops and how often each is done: what a piece of work costs, on paper.</summary>
public sealed class OpTally
{
    private readonly Dictionary<OpCost, double> _ops = [];

    /// <summary>The ops with their numbers; not whole ones where work was added in parts.</summary>
    public IReadOnlyDictionary<OpCost, double> Ops => _ops;

    /// <summary>Number of ops.</summary>
    public double Count => _ops.Values.Sum();

    /// <summary>Multiply-adds times two, of all products.</summary>
    public double Flops => _ops.Sum(o => o.Value * o.Key.Flops);

    /// <summary>Bytes of one kind of op.</summary>
    public double BytesOf(OpFamily family) => _ops.Sum(o => o.Key.Family == family ? o.Value * o.Key.Bytes : 0);

    /// <summary>Bytes of all ops that are no products.</summary>
    public double OtherBytes => _ops.Sum(o => o.Key.Family is OpFamily.MatMul or OpFamily.Attention or OpFamily.Rotation ? 0 : o.Value * o.Key.Bytes);

    /// <summary>Adds an op.</summary>
    public void Add(OpCost op, double times = 1) => _ops[op] = _ops.GetValueOrDefault(op) + times;

    /// <summary>Adds another piece of work.</summary>
    public void Add(OpTally work, double times = 1)
    {
        foreach ((OpCost op, double count) in work._ops)
            Add(op, times * count);
    }

    /// <summary>
    /// The formula that predictions of time are made by: Σ over the ops of max(operations / rate, bytes / rate), and a time between them.
    /// At a machine's peaks it is the floor of the work.
    /// </summary>
    /// <param name="flopsPerSecond">Operations a second.</param>
    /// <param name="bytesPerSecond">Bytes a second.</param>
    /// <param name="secondsPerOp">From the end of an op to the start of the next.</param>
    public double Seconds(double flopsPerSecond, double bytesPerSecond, double secondsPerOp = 0) =>
        _ops.Sum(o => o.Value * (o.Key.Seconds(flopsPerSecond, bytesPerSecond) + secondsPerOp));
}
