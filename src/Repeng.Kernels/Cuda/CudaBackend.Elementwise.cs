using System.Runtime.CompilerServices;
using System.Runtime.InteropServices;

namespace Repeng.Kernels.Cuda;

public sealed partial class CudaBackend
{
    private const string Elementwise = "elementwise";
    private const int Threads = 256, FlatTile = 1024, CopiesTogether = 30, LeastGatedCopy = 1 << 16;

    // Entry names as functions.cuh spells the enums: SoftCap is soft_cap.
    private static readonly string[] s_unaryForward = [.. Enum.GetValues<UnaryOp>().Select(o => "unary_forward_" + Snake(o.ToString()))];
    private static readonly string[] s_unaryBackward = [.. Enum.GetValues<UnaryOp>().Select(o => "unary_backward_" + Snake(o.ToString()))];
    private static readonly string[] s_gatedForward = [.. Enum.GetValues<UnaryOp>().Select(o => "gated_forward_" + Snake(o.ToString()))];
    private static readonly string[] s_gatedBackward = [.. Enum.GetValues<UnaryOp>().Select(o => "gated_backward_" + Snake(o.ToString()))];
    private static readonly string[] s_binaryForward = [.. Enum.GetValues<BinaryOp>().Select(o => "binary_forward_" + Snake(o.ToString()))];
    private static readonly string[] s_binaryBackwardA = [.. Enum.GetValues<BinaryOp>().Select(o => "binary_backward_a_" + Snake(o.ToString()))];
    private static readonly string[] s_binaryBackwardB = [.. Enum.GetValues<BinaryOp>().Select(o => "binary_backward_b_" + Snake(o.ToString()))];

    // The sum's term by a repeated operand of a sum is the gradient itself.
    private static readonly string[] s_terms = ["plain", "subtract", "multiply", "divide"];

    /// <inheritdoc/>
    public void Unary(View y, View x, long n, UnaryOp op, float p = 0)
    {
        Check.Size(n, nameof(Unary), nameof(n));
        y.Require(n, DType.F32, nameof(Unary), nameof(y));
        x.Require(n, DType.F32, nameof(Unary), nameof(x));
        KernelArguments a = default;
        a.Add(y).Add(x).Add(n).Add(p);
        Flat(Named(s_unaryForward, op, nameof(Unary)), n, ref a);
    }

    /// <inheritdoc/>
    public void UnaryBackward(View dx, View dy, View x, View y, long n, UnaryOp op, float p = 0)
    {
        Check.Size(n, nameof(UnaryBackward), nameof(n));
        if (dx.IsEmpty)
            return;
        dx.Require(n, DType.F32, nameof(UnaryBackward), nameof(dx));
        dy.Require(n, DType.F32, nameof(UnaryBackward), nameof(dy));
        View read = op.BackwardReadsOutput() ? y : x;
        read.Require(n, DType.F32, nameof(UnaryBackward), op.BackwardReadsOutput() ? nameof(y) : nameof(x));
        KernelArguments a = default;
        a.Add(dx).Add(dy).Add(read).Add(n).Add(p);
        Flat(Named(s_unaryBackward, op, nameof(UnaryBackward)), n, ref a);
    }

    /// <inheritdoc/>
    public void AddScaled(View y, View x, long n, float p)
    {
        Check.Size(n, nameof(AddScaled), nameof(n));
        y.Require(n, DType.F32, nameof(AddScaled), nameof(y));
        x.Require(n, DType.F32, nameof(AddScaled), nameof(x));
        KernelArguments a = default;
        a.Add(y).Add(x).Add(n).Add(p);
        Flat("add_scaled", n, ref a);
    }

    /// <inheritdoc/>
    public void CopySeveral(ReadOnlySpan<View> y, ReadOnlySpan<View> x, bool accumulate, float p = 1)
    {
        const string Op = nameof(CopySeveral);
        if (y.Length != x.Length)
            throw new ArgumentException($"{Op}: {x.Length} views into {y.Length}");
        CopyParams some = default;
        some.Accumulate = accumulate ? 1 : 0;
        long blocks = 0;
        for (int i = 0; i < y.Length; i++)
        {
            long n = y[i].Length;
            y[i].Require(n, DType.F32, Op, nameof(y));
            x[i].Require(n, DType.F32, Op, nameof(x));
            if (n > int.MaxValue && accumulate)
                AddScaled(y[i], x[i], n, p);
            else if (n > int.MaxValue)
                Unary(y[i], x[i], n, UnaryOp.Scale, p);
            if (n is 0 or > int.MaxValue)
                continue;
            if (some.Count == CopiesTogether || blocks + Blocks(n, FlatTile) > int.MaxValue)
                Launch(ref some);
            blocks += Blocks(n, FlatTile);
            int at = some.Count++;
            (some.Y[at], some.X[at], some.N[at], some.End[at]) = (y[i].Address, x[i].Address, (int)n, (int)blocks);
        }
        if (some.Count > 0)
            Launch(ref some);

        void Launch(ref CopyParams some)
        {
            KernelArguments a = default;
            a.Add(some).Add(p);
            Kernel(Elementwise, "copy_several").Launch(new((uint)blocks), new(Threads), 0, ref a);
            (some.Count, blocks) = (0, 0);
        }
    }

    /// <inheritdoc/>
    public void ScaleColumns(View y, View x, View s, int batch, int rows, int cols, bool accumulate)
    {
        const string Op = nameof(ScaleColumns);
        Check.Size(batch, Op, nameof(batch));
        long area = Shape(rows, cols, Op);
        int n = checked((int)(batch * area));
        y.Require(n, DType.F32, Op, nameof(y));
        x.Require(n, DType.F32, Op, nameof(x));
        s.Require((long)batch * cols, DType.F32, Op, nameof(s));
        if (n == 0)
            return;
        KernelArguments a = default;
        a.Add(y).Add(x).Add(s).Add(n).Add((int)area).Add(cols).Add(accumulate ? 1 : 0);
        Flat("scale_columns", n, ref a);
    }

    /// <inheritdoc/>
    public void ScaleColumnsBackward(View ds, View dy, View x, int batch, int rows, int cols)
    {
        const string Op = nameof(ScaleColumnsBackward);
        Check.Size(batch, Op, nameof(batch));
        long n = batch * Shape(rows, cols, Op);
        ds.Require((long)batch * cols, DType.F32, Op, nameof(ds));
        dy.Require(n, DType.F32, Op, nameof(dy));
        x.Require(n, DType.F32, Op, nameof(x));
        if (n > 0)
            SumCols(s_terms[(int)BinaryOp.Multiply], ds, dy, x, default, batch, rows, cols, accumulate: true);
    }

    /// <inheritdoc/>
    public void GatedForward(View y, View gate, View up, long n, UnaryOp op)
    {
        Check.Size(n, nameof(GatedForward), nameof(n));
        y.Require(n, Held(y), nameof(GatedForward), nameof(y));
        gate.Require(n, Held(gate), nameof(GatedForward), nameof(gate));
        up.Require(n, Held(up), nameof(GatedForward), nameof(up));
        KernelArguments a = default;
        // How many rows they are is not known here.
        nint copy = y.Type == DType.BF16 ? 0 : RoomForCopy(y, n >= LeastGatedCopy ? n / Eight : 0, n % Eight == 0 ? Eight : 1);
        a.Add(y).Add(gate).Add(up).Add(n).Add(copy).Add(HalvesOf(gate) + (2 * HalvesOf(up)) + (4 * HalvesOf(y)));
        Flat(Gate(s_gatedForward, op, nameof(GatedForward)), n, ref a);
        if (copy != 0)
            Copied(y.Address, n);
    }

    /// <inheritdoc/>
    public void GatedBackward(View dGate, View dUp, View dy, View gate, View up, long n, UnaryOp op, bool accumulate = true)
    {
        const string Op = nameof(GatedBackward);
        Check.Size(n, Op, nameof(n));
        if (dGate.IsEmpty && dUp.IsEmpty)
            return;
        if (!dGate.IsEmpty)
            dGate.Require(n, Held(dGate), Op, nameof(dGate));
        if (!dUp.IsEmpty)
            dUp.Require(n, Held(dUp), Op, nameof(dUp));
        dy.Require(n, Held(dy), Op, nameof(dy));
        gate.Require(n, Held(gate), Op, nameof(gate));
        if (!dGate.IsEmpty)
            up.Require(n, Held(up), Op, nameof(up));
        KernelArguments a = default;
        a.Add(dGate).Add(dUp).Add(dy).Add(gate).Add(up).Add(n).Add(accumulate ? 1 : 0).Add(HalvesOf(gate) + (2 * HalvesOf(up)) + (4 * HalvesOf(dy)) + (8 * HalvesOf(dGate)) + (16 * HalvesOf(dUp)));
        Flat(Gate(s_gatedBackward, op, Op), n, ref a);
    }

    /// <inheritdoc/>
    public void Binary(View y, View a, View b, int rows, int cols, BinaryOp op, Broadcast broadcast)
    {
        long n = Shape(rows, cols, nameof(Binary));
        if (n == 0)
            return;
        y.Require(n, DType.F32, nameof(Binary), nameof(y));
        a.Require(n, DType.F32, nameof(Binary), nameof(a));
        b.Require(LengthOfB(rows, cols, broadcast, nameof(Binary)), DType.F32, nameof(Binary), nameof(b));
        Repeated s = Steps(rows, cols, broadcast);
        KernelArguments k = default;
        k.Add(y).Add(a).Add(b).Add(s.Rows).Add(s.Cols).Add(s.RowStep).Add(s.ColStep);
        Kernel(Elementwise, Named(s_binaryForward, op, nameof(Binary))).Launch(new(s.Grid), new(Threads), 0, ref k);
    }

    /// <inheritdoc/>
    public void BinaryBackward(View da, View db, View dy, View a, View b, int rows, int cols, BinaryOp op, Broadcast broadcast)
    {
        const string Op = nameof(BinaryBackward);
        long n = Shape(rows, cols, Op), lengthOfB = LengthOfB(rows, cols, broadcast, Op);
        string byA = Named(s_binaryBackwardA, op, Op), byB = Named(s_binaryBackwardB, op, Op);
        if (n == 0 || (da.IsEmpty && db.IsEmpty))
            return;
        dy.Require(n, DType.F32, Op, nameof(dy));
        bool readsA = !db.IsEmpty && op is (BinaryOp.Multiply or BinaryOp.Divide), readsB = op is BinaryOp.Divide || (!da.IsEmpty && op is BinaryOp.Multiply);
        if (readsA)
            a.Require(n, DType.F32, Op, nameof(a));
        if (readsB)
            b.Require(lengthOfB, DType.F32, Op, nameof(b));
        if (!da.IsEmpty)
        {
            da.Require(n, DType.F32, Op, nameof(da));
            Repeated s = Steps(rows, cols, broadcast);
            KernelArguments k = default;
            k.Add(da).Add(dy).Add(readsB ? b : default).Add(s.Rows).Add(s.Cols).Add(s.RowStep).Add(s.ColStep);
            Kernel(Elementwise, byA).Launch(new(s.Grid), new(Threads), 0, ref k);
        }
        if (db.IsEmpty)
            return;
        db.Require(lengthOfB, DType.F32, Op, nameof(db));
        View readA = readsA ? a : default, readB = op is BinaryOp.Divide ? b : default;
        switch (Simplify(rows, cols, broadcast))
        {
            case Broadcast.None:
                KernelArguments k = default;
                k.Add(db).Add(dy).Add(readA).Add(readB).Add(n);
                Flat(byB, n, ref k);
                break;
            case Broadcast.Scalar: SumRows(s_terms[(int)op], db, dy, readA, readB, 1, n, 0, accumulate: true); break;
            case Broadcast.OverCols: SumRows(s_terms[(int)op], db, dy, readA, readB, rows, cols, 1, accumulate: true); break;
            default: SumCols(s_terms[(int)op], db, dy, readA, readB, 1, rows, cols, accumulate: true); break;
        }
    }

    /// <inheritdoc/>
    public void AddBias(View y, View bias, int rows, int cols)
    {
        long n = Shape(rows, cols, nameof(AddBias));
        if (n == 0)
            return;
        y.Require(n, DType.F32, nameof(AddBias), nameof(y));
        bias.Require(cols, DType.F32, nameof(AddBias), nameof(bias));
        KernelArguments a = default;
        a.Add(y).Add(bias).Add(rows).Add((long)cols);
        Kernel(Elementwise, "add_bias").Launch(new(Blocks((long)rows * Blocks(cols, FlatTile), 1)), new(Threads), 0, ref a);
    }

    /// <inheritdoc/>
    public void AddBiasBackward(View dBias, View dy, int rows, int cols)
    {
        long n = Shape(rows, cols, nameof(AddBiasBackward));
        if (dBias.IsEmpty || n == 0)
            return;
        dBias.Require(cols, DType.F32, nameof(AddBiasBackward), nameof(dBias));
        dy.Require(n, DType.F32, nameof(AddBiasBackward), nameof(dy));
        SumCols(s_terms[0], dBias, dy, default, default, 1, rows, cols, accumulate: true);
    }

    private void Flat(string kernel, long n, ref KernelArguments arguments) => Kernel(Elementwise, kernel).Launch(new(Blocks(n, FlatTile)), new(Threads), 0, ref arguments);

    private static long Shape(int rows, int cols, string op)
    {
        Check.Size(rows, op, nameof(rows));
        Check.Size(cols, op, nameof(cols));
        return (long)rows * cols;
    }

    private static string Named<T>(string[] names, T op, string what)
        where T : struct, Enum
    {
        int i = Convert.ToInt32(op, System.Globalization.CultureInfo.InvariantCulture);
        return (uint)i < (uint)names.Length ? names[i] : throw new ArgumentException($"{what}: {typeof(T).Name} {op} is not supported here");
    }

    private static string Gate(string[] names, UnaryOp op, string what) =>
        op is UnaryOp.Silu or UnaryOp.Gelu or UnaryOp.GeluTanh ? names[(int)op] : throw new ArgumentException($"{what}: UnaryOp {op} is not supported here");

    private static string Snake(string name) => string.Concat(name.Select((c, i) => char.IsUpper(c) ? (i > 0 ? "_" : "") + char.ToLowerInvariant(c) : c.ToString()));

    private static long LengthOfB(int rows, int cols, Broadcast broadcast, string op) => broadcast switch
    {
        Broadcast.None => (long)rows * cols,
        Broadcast.OverRows => cols,
        Broadcast.OverCols => rows,
        Broadcast.Scalar => 1,
        _ => throw new ArgumentException($"{op}: Broadcast {broadcast} is not supported here"),
    };

    private static Broadcast Simplify(int rows, int cols, Broadcast broadcast) => broadcast switch
    {
        Broadcast.OverRows when rows == 1 => Broadcast.None,
        Broadcast.OverRows when cols == 1 => Broadcast.Scalar,
        Broadcast.OverCols when cols == 1 => Broadcast.None,
        Broadcast.OverCols when rows == 1 => Broadcast.Scalar,
        _ => broadcast,
    };

    // Where b's element for (row, col) stands, and the grid: a block takes 1024 columns of a row. What is not repeated by rows is one long row.
    private static Repeated Steps(int rows, int cols, Broadcast broadcast)
    {
        long n = (long)rows * cols;
        return broadcast switch
        {
            Broadcast.None => new(1, n, 0, 1, Blocks(n, FlatTile)),
            Broadcast.Scalar => new(1, n, 0, 0, Blocks(n, FlatTile)),
            Broadcast.OverRows => new(rows, cols, 0, 1, Blocks((long)rows * Blocks(cols, FlatTile), 1)),
            _ => new(rows, cols, 1, 0, Blocks((long)rows * Blocks(cols, FlatTile), 1)),
        };
    }

    private readonly record struct Repeated(int Rows, long Cols, long RowStep, int ColStep, uint Grid);

    /// <summary>Tensors by value; laid out as CopyParams in kernels/elementwise.cu.</summary>
    [StructLayout(LayoutKind.Sequential)]
    private struct CopyParams
    {
        public Addresses Y, X;
        public Numbers N, End;
        public int Count, Accumulate;

        [InlineArray(CopiesTogether)]
        public struct Addresses
        {
            private nint _first;
        }

        [InlineArray(CopiesTogether)]
        public struct Numbers
        {
            private int _first;
        }
    }
}
