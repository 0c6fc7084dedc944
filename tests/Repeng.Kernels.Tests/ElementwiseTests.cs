using Repeng.Kernels.Tests.Reference;
using Repeng.Testing;
using Xunit;

namespace Repeng.Kernels.Tests;

/// <summary>Functions of one variable, of two with every broadcast, and gated ones, against double arithmetic.</summary>
public sealed class ElementwiseTests
{
    private const double Tolerance = 2e-6;

    public static TheoryData<string, UnaryOp> UnaryCases()
    {
        TheoryData<string, UnaryOp> cases = [];
        foreach (string backend in Backends.Names)
            foreach (UnaryOp op in Enum.GetValues<UnaryOp>())
                cases.Add(backend, op);
        return cases;
    }

    public static TheoryData<string, BinaryOp, Broadcast> BinaryCases()
    {
        TheoryData<string, BinaryOp, Broadcast> cases = [];
        foreach (string backend in Backends.Names)
            foreach (BinaryOp op in Enum.GetValues<BinaryOp>())
                foreach (Broadcast broadcast in Enum.GetValues<Broadcast>())
                    cases.Add(backend, op, broadcast);
        return cases;
    }

    public static TheoryData<string, UnaryOp> GatedCases()
    {
        TheoryData<string, UnaryOp> cases = [];
        foreach (string backend in Backends.Names)
            foreach (UnaryOp op in new[] { UnaryOp.Silu, UnaryOp.Gelu, UnaryOp.GeluTanh })
                cases.Add(backend, op);
        return cases;
    }

    public static TheoryData<string> BackendNames() => [.. Backends.Names];

    public static TheoryData<UnaryOp> Functions() => [.. Enum.GetValues<UnaryOp>()];

    [Theory]
    [MemberData(nameof(Functions))]
    public void ReferenceDerivativeEqualsFiniteDifferences(UnaryOp op)
    {
        double p = ElementwiseReference.Parameter(op);
        foreach (float x in ElementwiseReference.Arguments(op, 200, 5))
        {
            // A kink within the step would be no derivative at all.
            if ((op is UnaryOp.Abs or UnaryOp.Relu && Math.Abs(x) < 1e-3) || (op is UnaryOp.Min or UnaryOp.Max && Math.Abs(x - p) < 1e-3))
                continue;
            double h = 1e-5 * (op is UnaryOp.Log or UnaryOp.Sqrt or UnaryOp.Power ? x : op is UnaryOp.Log1p ? 1 + x : 1);
            double slope = (ElementwiseReference.Value(op, x + h, p) - ElementwiseReference.Value(op, x - h, p)) / (2 * h);
            double derivative = ElementwiseReference.Derivative(op, x, p);
            Assert.True(Math.Abs(slope - derivative) <= 1e-6 * Math.Max(1, Math.Abs(derivative)), $"{op} at {x}: {derivative} against {slope}");
        }
    }

    [Theory]
    [MemberData(nameof(UnaryCases))]
    public void UnaryForwardEqualsReference(string backend, UnaryOp op)
    {
        using IBackend b = Backends.Create(backend);
        using TestMemory memory = new(b);
        float p = ElementwiseReference.Parameter(op);
        foreach (int n in Lengths())
        {
            float[] x = ElementwiseReference.Arguments(op, n, n);
            double[] expected = Array.ConvertAll(x, v => ElementwiseReference.Value(op, v, p));
            // One element more than the op may touch.
            View y = memory.Empty(n + 1, -77);
            b.Unary(y, memory.Of(x), n, op, p);
            float[] result = memory.Read(y);
            Assert.Equal(-77, result[n]);
            Close.To(Tolerance, result.AsSpan(0, n), expected, $"{op}, n = {n}");

            View inPlace = memory.Of(x);
            b.Unary(inPlace, inPlace, n, op, p);
            Assert.Equal(result[..n], memory.Read(inPlace));
        }
    }

    [Theory]
    [MemberData(nameof(UnaryCases))]
    public void UnaryBackwardAddsDyTimesTheDerivative(string backend, UnaryOp op)
    {
        using IBackend b = Backends.Create(backend);
        using TestMemory memory = new(b);
        float p = ElementwiseReference.Parameter(op);
        foreach (int n in Lengths())
        {
            float[] x = ElementwiseReference.Arguments(op, n, n), dy = Random(n, 2 * n), start = Random(n, 3 * n);
            double[] expected = new double[n];
            for (int i = 0; i < n; i++)
                expected[i] = start[i] + (dy[i] * ElementwiseReference.Derivative(op, x[i], p));
            View xs = memory.Of(x), y = memory.Empty(n), dx = memory.Of(start);
            b.Unary(y, xs, n, op, p);
            b.UnaryBackward(dx, memory.Of(dy), xs, y, n, op, p);
            Close.To(Tolerance, memory.Read(dx), expected, $"{op}, n = {n}");

            // What the derivative does not read may be absent, and the result is the same.
            View again = memory.Of(start);
            bool output = op.BackwardReadsOutput();
            b.UnaryBackward(again, memory.Of(dy), output ? default : xs, output ? y : default, n, op, p);
            Assert.Equal(memory.Read(dx), memory.Read(again));
            b.UnaryBackward(default, memory.Of(dy), xs, y, n, op, p);
        }
    }

    [Theory]
    [MemberData(nameof(BackendNames))]
    public void UnaryDerivativesAtKinksFollowTorch(string backend)
    {
        using IBackend b = Backends.Create(backend);
        using TestMemory memory = new(b);
        View x = memory.Of([-0f, 0f, 2f, -3f, float.PositiveInfinity, float.NegativeInfinity]), ones = memory.Of([1f, 1, 1, 1, 1, 1]);
        float[] Slope(UnaryOp op, float p)
        {
            View dx = memory.Zeros(6), y = memory.Empty(6);
            b.Unary(y, x, 6, op, p);
            b.UnaryBackward(dx, ones, x, y, 6, op, p);
            return memory.Read(dx);
        }
        Assert.Equal([0f, 0, 1, -1, 1, -1], Slope(UnaryOp.Abs, 0));
        Assert.Equal([0f, 0, 1, 0, 1, 0], Slope(UnaryOp.Relu, 0));
        Assert.Equal([1f, 1, 0, 1, 0, 1], Slope(UnaryOp.Min, 0));
        Assert.Equal([1f, 1, 1, 1, 0, 1], Slope(UnaryOp.Min, 2));
        Assert.Equal([1f, 1, 1, 0, 1, 0], Slope(UnaryOp.Max, 0));
        Assert.Equal([0f, 0, 1, 0, 1, 0], Slope(UnaryOp.Max, 2));
        Assert.Equal([0f, 0, 0, 0, 0, 0], Slope(UnaryOp.Power, 0));
        Assert.Equal([1f, 1, 1, 1, 1, 1], Slope(UnaryOp.Power, 1));
    }

    [Theory]
    [MemberData(nameof(UnaryCases))]
    public void UnaryStandsExtremes(string backend, UnaryOp op)
    {
        using IBackend b = Backends.Create(backend);
        using TestMemory memory = new(b);
        float p = ElementwiseReference.Parameter(op);
        float[] x = [0, -0f, float.Epsilon, -float.Epsilon, 1e-38f, -1e-38f, 1e-20f, 1e20f, -1e20f, 3e38f, -3e38f, 88, -88, 104, -104, float.PositiveInfinity, float.NegativeInfinity, float.NaN];
        View y = memory.Empty(x.Length);
        b.Unary(y, memory.Of(x), x.Length, op, p);
        float[] result = memory.Read(y);
        for (int i = 0; i < x.Length; i++)
        {
            // x·σ(x) and x·Φ(x) at −∞ are −∞·0, as in torch.
            if (op is UnaryOp.Silu or UnaryOp.Gelu or UnaryOp.GeluTanh && float.IsNegativeInfinity(x[i]))
                continue;
            float expected = (float)ElementwiseReference.Value(op, x[i], p);
            if (float.IsNaN(expected) || float.IsInfinity(expected))
                Assert.True(result[i].Equals(expected), $"{op}({x[i]:g9}) = {result[i]:g9}, expected {expected}");
            else
                // x times a subnormal factor is only as close as x spacings of such numbers.
                Assert.True(Math.Abs(result[i] - (double)expected) <= (1e-6 * Math.Abs((double)expected)) + (2 * float.Epsilon * Math.Clamp(Math.Abs((double)x[i]), 1, 128)), $"{op}({x[i]:g9}) = {result[i]:g9}, expected {expected:g9}");
        }
    }

    [Theory]
    [MemberData(nameof(BinaryCases))]
    public void BinaryEqualsReference(string backend, BinaryOp op, Broadcast broadcast)
    {
        using IBackend b = Backends.Create(backend);
        using TestMemory memory = new(b);
        foreach ((int rows, int cols) in Shapes())
        {
            float[] a = Random(rows * cols, 1), dy = Random(rows * cols, 2);
            float[] second = Random(LengthOfB(broadcast, rows, cols), 3);
            for (int i = 0; i < second.Length; i++)
                second[i] += second[i] < 0 ? -0.5f : 0.5f;
            float[] startA = Random(a.Length, 4), startB = Random(second.Length, 5);
            double[] y = new double[a.Length], da = Array.ConvertAll(startA, v => (double)v), db = Array.ConvertAll(startB, v => (double)v);
            for (int row = 0; row < rows; row++)
                for (int col = 0; col < cols; col++)
                {
                    int i = (row * cols) + col, j = ElementwiseReference.IndexOfB(broadcast, row, col, cols);
                    (double byA, double byB) = ElementwiseReference.Derivatives(op, a[i], second[j]);
                    y[i] = ElementwiseReference.Value(op, a[i], second[j]);
                    da[i] += dy[i] * byA;
                    db[j] += dy[i] * byB;
                }

            string what = $"{op} {broadcast} [{rows}, {cols}]";
            View va = memory.Of(a), vb = memory.Of(second), vdy = memory.Of(dy), vy = memory.Empty(a.Length);
            b.Binary(vy, va, vb, rows, cols, op, broadcast);
            Close.To(Tolerance, memory.Read(vy), y, what);
            View inPlace = memory.Of(a);
            b.Binary(inPlace, inPlace, vb, rows, cols, op, broadcast);
            Assert.Equal(memory.Read(vy), memory.Read(inPlace));

            View vda = memory.Of(startA), vdb = memory.Of(startB);
            b.BinaryBackward(vda, vdb, vdy, va, vb, rows, cols, op, broadcast);
            Close.To(Tolerance, memory.Read(vda), da, $"da of {what}");
            Close.To(Tolerance, memory.Read(vdb), db, $"db of {what}");

            // Each gradient alone, with the operands that it does not read left out, is the same.
            bool quotient = op is BinaryOp.Divide, product = op is BinaryOp.Multiply;
            View aloneA = memory.Of(startA), aloneB = memory.Of(startB);
            b.BinaryBackward(aloneA, default, vdy, default, product || quotient ? vb : default, rows, cols, op, broadcast);
            b.BinaryBackward(default, aloneB, vdy, product || quotient ? va : default, quotient ? vb : default, rows, cols, op, broadcast);
            Assert.Equal(memory.Read(vda), memory.Read(aloneA));
            Assert.Equal(memory.Read(vdb), memory.Read(aloneB));
        }
    }

    [Theory]
    [MemberData(nameof(BinaryCases))]
    public void BinaryBackwardIsTheAdjointOfTheReference(string backend, BinaryOp op, Broadcast broadcast)
    {
        // <dy, J·(ea, eb)> by central differences in double against <da, ea> + <db, eb> of the backend.
        const int Rows = 5, Cols = 9;
        const double Step = 1e-5;
        using IBackend b = Backends.Create(backend);
        using TestMemory memory = new(b);
        float[] a = Random(Rows * Cols, 1), dy = Random(Rows * Cols, 2), ea = Random(Rows * Cols, 3);
        float[] second = Array.ConvertAll(Random(LengthOfB(broadcast, Rows, Cols), 4), v => v < 0 ? v - 0.5f : v + 0.5f), eb = Random(second.Length, 5);
        double slope = 0;
        for (int row = 0; row < Rows; row++)
            for (int col = 0; col < Cols; col++)
            {
                int i = (row * Cols) + col, j = ElementwiseReference.IndexOfB(broadcast, row, col, Cols);
                double up = ElementwiseReference.Value(op, a[i] + (Step * ea[i]), second[j] + (Step * eb[j]));
                double down = ElementwiseReference.Value(op, a[i] - (Step * ea[i]), second[j] - (Step * eb[j]));
                slope += dy[i] * (up - down) / (2 * Step);
            }
        View da = memory.Zeros(a.Length), db = memory.Zeros(second.Length);
        b.BinaryBackward(da, db, memory.Of(dy), memory.Of(a), memory.Of(second), Rows, Cols, op, broadcast);
        double adjoint = Dot(memory.Read(da), ea) + Dot(memory.Read(db), eb);
        Assert.True(Math.Abs(adjoint - slope) <= 2e-6 * (Rows * Cols), $"{op} {broadcast}: {adjoint} against {slope}");
    }

    [Theory]
    [MemberData(nameof(GatedCases))]
    public void GatedEqualsReference(string backend, UnaryOp op)
    {
        using IBackend b = Backends.Create(backend);
        using TestMemory memory = new(b);
        foreach (int n in Lengths())
        {
            float[] gate = ElementwiseReference.Arguments(op, n, n), up = Random(n, 1), dy = Random(n, 2), startGate = Random(n, 3), startUp = Random(n, 4);
            double[] y = new double[n], dGate = new double[n], dUp = new double[n];
            for (int i = 0; i < n; i++)
            {
                y[i] = ElementwiseReference.Value(op, gate[i], 0) * up[i];
                dGate[i] = startGate[i] + (dy[i] * up[i] * ElementwiseReference.Derivative(op, gate[i], 0));
                dUp[i] = startUp[i] + (dy[i] * ElementwiseReference.Value(op, gate[i], 0));
            }
            View vg = memory.Of(gate), vu = memory.Of(up), vdy = memory.Of(dy), vy = memory.Empty(n);
            b.GatedForward(vy, vg, vu, n, op);
            Close.To(Tolerance, memory.Read(vy), y, $"{op}, n = {n}");
            View vdg = memory.Of(startGate), vdu = memory.Of(startUp), aloneGate = memory.Of(startGate), aloneUp = memory.Of(startUp);
            b.GatedBackward(vdg, vdu, vdy, vg, vu, n, op);
            Close.To(Tolerance, memory.Read(vdg), dGate, $"dGate of {op}, n = {n}");
            Close.To(Tolerance, memory.Read(vdu), dUp, $"dUp of {op}, n = {n}");
            b.GatedBackward(aloneGate, default, vdy, vg, vu, n, op);
            b.GatedBackward(default, aloneUp, vdy, vg, default, n, op);
            Assert.Equal(memory.Read(vdg), memory.Read(aloneGate));
            Assert.Equal(memory.Read(vdu), memory.Read(aloneUp));
        }
    }

    [Theory]
    [MemberData(nameof(BackendNames))]
    public void AddScaledEqualsReference(string backend)
    {
        using IBackend b = Backends.Create(backend);
        using TestMemory memory = new(b);
        foreach (int n in Lengths())
        {
            float[] x = Random(n, 1), y = Random(n, 2);
            double[] expected = new double[n];
            for (int i = 0; i < n; i++)
                expected[i] = y[i] - (0.37f * (double)x[i]);
            View vy = memory.Of(y);
            b.AddScaled(vy, memory.Of(x), n, -0.37f);
            Close.To(Tolerance, memory.Read(vy), expected, $"n = {n}");
        }
    }

    [Fact]
    public void BitsDoNotDependOnThreads()
    {
        const int N = 150_003, Rows = 1501, Cols = 97;
        float[] x = Random(N, 1), positive = Array.ConvertAll(x, v => Math.Abs(v) + 0.1f), other = Random(N, 2);
        Threads.AssertSameBits((b, memory, results) =>
        {
            foreach (UnaryOp op in Enum.GetValues<UnaryOp>())
            {
                View y = memory.Empty(N), dx = memory.Of(other), xs = memory.Of(positive);
                float p = ElementwiseReference.Parameter(op);
                b.Unary(y, xs, N, op, p);
                b.UnaryBackward(dx, memory.Of(x), xs, y, N, op, p);
                results.Add((op.ToString(), memory.Read(y)));
                results.Add((op + " backward", memory.Read(dx)));
            }
            foreach (BinaryOp op in Enum.GetValues<BinaryOp>())
                foreach (Broadcast broadcast in Enum.GetValues<Broadcast>())
                {
                    View a = memory.Of(x), second = memory.Of(positive), y = memory.Empty(Rows * Cols), da = memory.Zeros(Rows * Cols), db = memory.Zeros(Rows * Cols);
                    b.Binary(y, a, second, Rows, Cols, op, broadcast);
                    b.BinaryBackward(da, db, memory.Of(other), a, second, Rows, Cols, op, broadcast);
                    results.Add(($"{op} {broadcast}", memory.Read(y)));
                    results.Add(($"da of {op} {broadcast}", memory.Read(da)));
                    results.Add(($"db of {op} {broadcast}", memory.Read(db)));
                }
            foreach (UnaryOp op in new[] { UnaryOp.Silu, UnaryOp.Gelu, UnaryOp.GeluTanh })
            {
                View dGate = memory.Zeros(N), dUp = memory.Zeros(N);
                b.GatedBackward(dGate, dUp, memory.Of(other), memory.Of(x), memory.Of(positive), N, op);
                results.Add(($"dGate of {op}", memory.Read(dGate)));
                results.Add(($"dUp of {op}", memory.Read(dUp)));
            }
        });
    }

    [Theory]
    [MemberData(nameof(UnaryCases))]
    public void BitsDoNotDependOnPosition(string backend, UnaryOp op)
    {
        const int N = 75;
        using IBackend b = Backends.Create(backend);
        using TestMemory memory = new(b);
        float p = ElementwiseReference.Parameter(op);
        View x = memory.Of(ElementwiseReference.Arguments(op, N, 3)), whole = memory.Empty(N), dy = memory.Of(Random(N, 4)), dWhole = memory.Zeros(N);
        b.Unary(whole, x, N, op, p);
        b.UnaryBackward(dWhole, dy, x, whole, N, op, p);
        for (int start = 0; start < N; start++)
        {
            int length = Math.Min(N - start, 1 + (start % 11));
            View part = memory.Empty(N), dPart = memory.Zeros(N);
            b.Unary(part.Slice(start, length), x.Slice(start, length), length, op, p);
            b.UnaryBackward(dPart.Slice(start, length), dy.Slice(start, length), x.Slice(start, length), whole.Slice(start, length), length, op, p);
            Assert.Equal(memory.Read(whole).AsSpan(start, length), memory.Read(part).AsSpan(start, length));
            Assert.Equal(memory.Read(dWhole).AsSpan(start, length), memory.Read(dPart).AsSpan(start, length));
        }
    }

    [Fact]
    public void NothingIsAllocated()
    {
        using IBackend b = Backends.Create("cpu", 2);
        using TestMemory memory = new(b);
        foreach (int n in new[] { 7, 150_000 })
        {
            View x = memory.Empty(n, 0.5f), y = memory.Empty(n, 0.5f), d = memory.Zeros(n), e = memory.Zeros(n);
            Allocation.AssertNone(() =>
            {
                foreach (UnaryOp op in s_unaryOps)
                {
                    b.Unary(y, x, n, op, 2);
                    b.UnaryBackward(d, x, x, y, n, op, 2);
                }
                foreach (BinaryOp op in s_binaryOps)
                    foreach (Broadcast broadcast in s_broadcasts)
                    {
                        b.Binary(y, x, x, 1, n, op, broadcast);
                        b.BinaryBackward(d, e, x, x, x, 1, n, op, broadcast);
                    }
                b.GatedForward(y, x, x, n, UnaryOp.Silu);
                b.GatedBackward(d, e, x, x, x, n, UnaryOp.Silu);
                b.AddScaled(y, x, n, 0.5f);
            });
        }
    }

    [Theory]
    [MemberData(nameof(BackendNames))]
    public void OperandsThatDoNotFitAreNamed(string backend)
    {
        using IBackend b = Backends.Create(backend);
        using TestMemory memory = new(b);
        View four = memory.Zeros(4), five = memory.Zeros(5);
        View ids = memory.Of([1, 2, 3, 4, 5]);
        Assert.Equal("Unary: operand y has 4 × F32, needs 5 × F32", Assert.Throws<ArgumentException>(() => b.Unary(four, five, 5, UnaryOp.Exp)).Message);
        Assert.Equal("Unary: operand x has 5 × I32, needs 5 × F32", Assert.Throws<ArgumentException>(() => b.Unary(five, ids, 5, UnaryOp.Exp)).Message);
        Assert.Contains("n is -1", Assert.Throws<ArgumentException>(() => b.Unary(four, five, -1, UnaryOp.Exp)).Message);
        Assert.Contains("99", Assert.Throws<ArgumentException>(() => b.Unary(five, five, 5, (UnaryOp)99)).Message);
        Assert.Contains("operand dy", Assert.Throws<ArgumentException>(() => b.UnaryBackward(five, four, five, five, 5, UnaryOp.Exp)).Message);
        Assert.Contains("operand y", Assert.Throws<ArgumentException>(() => b.UnaryBackward(five, five, five, default, 5, UnaryOp.Exp)).Message);
        Assert.Contains("operand x", Assert.Throws<ArgumentException>(() => b.UnaryBackward(five, five, default, five, 5, UnaryOp.Silu)).Message);
        Assert.Contains("operand b has 4", Assert.Throws<ArgumentException>(() => b.Binary(five, five, four, 1, 5, BinaryOp.Add, Broadcast.OverRows)).Message);
        Assert.Contains("operand db", Assert.Throws<ArgumentException>(() => b.BinaryBackward(five, four, five, five, five, 1, 5, BinaryOp.Add, Broadcast.None)).Message);
        Assert.Contains("Broadcast 9", Assert.Throws<ArgumentException>(() => b.Binary(five, five, five, 1, 5, BinaryOp.Add, (Broadcast)9)).Message);
        Assert.Contains("operand up", Assert.Throws<ArgumentException>(() => b.GatedForward(five, five, four, 5, UnaryOp.Silu)).Message);
        Assert.Contains("Tanh", Assert.Throws<ArgumentException>(() => b.GatedForward(five, five, five, 5, UnaryOp.Tanh)).Message);
        Assert.Contains("operand x", Assert.Throws<ArgumentException>(() => b.AddScaled(five, four, 5, 1)).Message);
    }

    private static readonly UnaryOp[] s_unaryOps = Enum.GetValues<UnaryOp>();
    private static readonly BinaryOp[] s_binaryOps = Enum.GetValues<BinaryOp>();
    private static readonly Broadcast[] s_broadcasts = Enum.GetValues<Broadcast>();

    private static IEnumerable<int> Lengths() => [.. Enumerable.Range(1, 70), 40_003];

    private static IEnumerable<(int Rows, int Cols)> Shapes() => [(1, 1), (1, 7), (7, 1), (2, 3), (3, 8), (5, 9), (4, 17), (33, 31), (6, 64), (3, 20_001), (2100, 37), (40_000, 1), (1, 40_001)];

    private static int LengthOfB(Broadcast broadcast, int rows, int cols) => broadcast switch
    {
        Broadcast.None => rows * cols,
        Broadcast.OverRows => cols,
        Broadcast.OverCols => rows,
        _ => 1,
    };

    private static float[] Random(int n, int seed)
    {
        var random = new Random(seed);
        var values = new float[n];
        for (int i = 0; i < n; i++)
            values[i] = (float)((2 * random.NextDouble()) - 1);
        return values;
    }

    private static double Dot(float[] a, float[] b)
    {
        double sum = 0;
        for (int i = 0; i < a.Length; i++)
            sum += (double)a[i] * b[i];
        return sum;
    }
}
