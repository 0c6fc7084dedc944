using Repeng.Kernels;
using Repeng.Kernels.Cuda;
using Repeng.Kernels.Tests.Reference;
using Repeng.PtxEmulator;
using Repeng.Testing;
using Params = Repeng.Cuda.Tests.AttentionKernelTests.Params;

namespace Repeng.Cuda.Tests;

/// <summary>attention_rounded.cu: against double arithmetic on operands rounded to bf16, against the exact kernels, the same bits when repeated, and what it costs.</summary>
public sealed class RoundedAttentionTests
{
    // Rounding to the eight bits of a bf16 is off by at most half of the last one.
    private const double HalfBit = 1.0 / 256;

    // What fp32 sums, exponentials and scores add, of the largest element: some rows' terms cancel.
    private const double Fp32 = 2e-5;

    public static TheoryData<AttentionArgs> Cases() =>
    [
        // Every head size's kernels, ragged ones among them (50 has no 16-byte loads, 51 no 8-byte stores); 1, 2, 3, 4, 5 and 8 query heads a key head; windows, caps, keys before the first query.
        new(new AttentionArgs(2, 20, 20, 4, 2, 16, 0.25f)),
        new(new AttentionArgs(1, 70, 140, 2, 1, 32, 0.2f, SoftCap: 5, Window: 40, KeyCapacity: 150)),
        new(new AttentionArgs(1, 40, 40, 3, 1, 50, 0.15f)),
        new(new AttentionArgs(1, 25, 25, 5, 1, 51, 0.15f)),
        new(new AttentionArgs(1, 90, 95, 2, 2, 64, 0.125f, Window: 9)),
        new(new AttentionArgs(2, 18, 18, 4, 1, 96, 0.1f, SoftCap: 30)),
        new(new AttentionArgs(2, 70, 70, 8, 2, 128, 0.0884f)),
        new(new AttentionArgs(1, 66, 66, 8, 1, 128, 0.0884f, Window: 33)),
        new(new AttentionArgs(1, 24, 24, 2, 2, 160, 0.08f)),
        new(new AttentionArgs(2, 40, 45, 4, 2, 256, 0.0625f, SoftCap: 20, Window: 30)),
        new(new AttentionArgs(1, 70, 70, 1, 1, 256, 0.0625f)),
    ];

    [Theory]
    [MemberData(nameof(Cases))]
    public void EqualsDoubleArithmeticOnRoundedOperands(AttentionArgs a)
    {
        using Gpu gpu = new();
        var run = new Run(gpu, a);
        (float[] o, float[] lse, ushort[] copy) = run.Forward();
        Assert.Equal(Array.ConvertAll(o, MatMulKernelTests.BFloat), copy);
        (float[] dq, float[] dk, float[] dv, float[] delta) = run.Backward();

        var rounded = new Doubles(run, o, true);
        Close.To(1e-5, lse, rounded.Lse, "lse");
        Close.To(1e-5, delta, rounded.Delta, "delta");
        Bounded(o, rounded.O, "o");
        Bounded(dq, rounded.Dq, "dq");
        Bounded(dk, rounded.Dk, "dk");
        Bounded(dv, rounded.Dv, "dv");
        // Operands as they are give other numbers than these bounds leave room for.
        var plain = new Doubles(run, o, false);
        Assert.True(Excess(o, plain.O) > 1 && Excess(dq, plain.Dq) > 1 && Excess(dk, plain.Dk) > 1 && Excess(dv, plain.Dv) > 1);
        // torch.autocast's rounding: some 1e-2 of the largest.
        Close.To(2e-2, o, [.. plain.O.Select(x => x.Value)], "o beside unrounded operands");

        // The same bits again, and where gradients are added to.
        (float[] again, float[] lseAgain, _) = run.Forward();
        Assert.Equal(o, again);
        Assert.Equal(lse, lseAgain);
        (float[] dq2, float[] dk2, float[] dv2, float[] delta2) = run.Backward();
        Assert.Equal([.. dq, .. dk, .. dv, .. delta], [.. dq2, .. dk2, .. dv2, .. delta2]);
        float[] startQ = Gpu.Random(dq.Length, 5), startK = Gpu.Random(dk.Length, 6), startV = Gpu.Random(dk.Length, 7);
        (dq2, dk2, dv2, _) = run.Backward(startQ, startK, startV);
        Assert.Equal(startQ.Zip(dq, (x, y) => x + y), dq2);
        Assert.Equal(startK.Zip(dk, (x, y) => x + y), dk2);
        Assert.Equal(startV.Zip(dv, (x, y) => x + y), dv2);
    }

    public static TheoryData<string> OnDevices() => RoundedBackendTests.OnDevices();

    /// <summary>Through the launch code: beside the exact precision, what stays exact, sinks, and gradients that are asked for one by one.</summary>
    [Theory, MemberData(nameof(OnDevices))]
    public void RoundsWhatIsNoDecoding(string backend)
    {
        // A token a sequence over a short cache and over stretches of a long one, with as many query heads as fill a block; four tokens of four heads: exact in either precision.
        foreach (AttentionArgs a in (AttentionArgs[])[new(2, 1, 40, 4, 1, 32, 0.2f), new(1, 1, 300, 40, 1, 32, 0.2f), new(1, 4, 300, 4, 1, 64, 0.125f), new(1, 4, 4, 4, 1, 64, 0.125f)])
        {
            List<(string What, float[] Values)> exact = All(CudaPrecision.Exact, a), rounded = All(CudaPrecision.Bf16, a);
            foreach (((string what, float[] x), (_, float[] y)) in exact.Zip(rounded))
                Assert.True(x.SequenceEqual(y), $"{a}: {what}");
        }
        foreach (AttentionArgs a in (AttentionArgs[])[new(2, 21, 21, 4, 2, 16, 0.25f), new(1, 70, 70, 2, 1, 64, 0.125f, SoftCap: 20, Window: 9), new(2, 5, 33, 4, 1, 96, 0.1f, KeyCapacity: 40), new(1, 20, 20, 2, 1, 160, 0.1f)])
        {
            List<(string What, float[] Values)> exact = All(CudaPrecision.Exact, a), rounded = All(CudaPrecision.Bf16, a);
            foreach (((string what, float[] x), (_, float[] y)) in exact.Zip(rounded))
                Close.To(2e-2, y, x, $"{a}: {what}");
            // Rounded, and not exact by another name: all but the places of the delta that was not asked for.
            Assert.All(exact.Zip(rounded), p => Assert.True(p.First.Values.Zip(p.Second.Values).Max(v => Math.Abs(v.First - v.Second)) > 1e-5 * p.First.Values.Max(Math.Abs), $"{a}: {p.First.What}"));
            Assert.Equal(rounded, All(CudaPrecision.Bf16, a), (x, y) => x.What == y.What && x.Values.SequenceEqual(y.Values));
        }

        List<(string What, float[] Values)> All(CudaPrecision precision, AttentionArgs a)
        {
            using IBackend b = Backends.Create(backend, precision: precision);
            using var memory = new TestMemory(b);
            int queries = a.Batch * a.QueryLength * a.Heads, rows = a.Batch * a.QueryLength, keys = a.Batch * a.KeyStride * a.KvHeads * a.HeadDim;
            View q = memory.Of(Gpu.Random(queries * a.HeadDim, 1)), k = memory.Of(Gpu.Random(keys, 2)), v = memory.Of(Gpu.Random(keys, 3)), dO = memory.Of(Gpu.Random(queries * a.HeadDim, 4));
            View o = memory.Empty(queries * a.HeadDim), lse = memory.Empty(queries), delta = memory.Empty(queries), first = memory.Of([.. Enumerable.Range(0, a.Batch).Select(i => 3 * i)]);
            View sinks = memory.Of(Gpu.Random(a.Heads, 5)), dSinks = memory.Zeros(a.Heads);
            List<(string What, float[] Values)> kept = [];
            void Keep(string what, View x) => kept.Add((what, memory.Read(x)));
            b.AttentionForward(o, lse, q, k, v, first, a);
            Keep("o", o);
            b.AttentionSinksForward(o, lse, sinks, rows, a.Heads, a.HeadDim);
            Keep("o with sinks", o);
            View dq = memory.Zeros(queries * a.HeadDim), dk = memory.Zeros(keys), dv = memory.Zeros(keys), onlyK = memory.Zeros(keys);
            b.AttentionBackward(dq, dk, dv, dO, o, lse, delta, q, k, v, first, a);
            b.AttentionSinksBackward(dSinks, delta, lse, sinks, rows, a.Heads);
            Keep("dq", dq);
            Keep("dk", dk);
            Keep("dv", dv);
            Keep("dSinks", dSinks);
            // By keys alone: delta by itself.
            b.AttentionBackward(default, onlyK, default, dO, o, lse, memory.Empty(queries), q, k, v, first, a, accumulate: a.KeyStride > a.KeyLength);
            Close.To(1e-3, memory.Read(onlyK), memory.Read(dk), $"{a}: dk alone");
            return kept;
        }
    }

    // The largest error over what rounding P or dS to bf16 may do to a sum of its products: half a bit of each term.
    private static double Excess(float[] values, (double Value, double Terms)[] expected)
    {
        double largest = expected.Max(x => Math.Abs(x.Value));
        return values.Zip(expected, (x, e) => Math.Abs(x - e.Value) / ((HalfBit * e.Terms) + (Fp32 * largest))).Max();
    }

    private static void Bounded(float[] values, (double Value, double Terms)[] expected, string what)
    {
        Assert.DoesNotContain(values, float.IsNaN);
        double excess = Excess(values, expected);
        Assert.True(excess <= 1, $"{what}: {excess:0.000} of what rounding may do");
    }

    /// <summary>One set of operands on the device and the launches of CudaBackend.Attention.cs.</summary>
    private sealed class Run
    {
        private readonly Gpu _gpu;
        private readonly int _padded, _problems, _rows;
        private Params _p;

        public Run(Gpu gpu, AttentionArgs a)
        {
            _gpu = gpu;
            Args = a;
            _padded = a.HeadDim <= 32 ? 32 : a.HeadDim <= 64 ? 64 : a.HeadDim <= 128 ? 128 : 256;
            _problems = a.Batch * a.KvHeads;
            _rows = a.QueryLength * a.Group;
            Queries = a.Batch * a.QueryLength * a.Heads;
            int tokens = ((a.Batch - 1) * a.KeyStride) + a.KeyLength;
            Q = Gpu.Random(Queries * a.HeadDim, 1, 2);
            K = Gpu.Random(tokens * a.KvHeads * a.HeadDim, 2, 2);
            V = Gpu.Random(K.Length, 3);
            G = Gpu.Random(Q.Length, 4);
            // The second sequence is padded on the left so far that a few queries see nothing.
            FirstKey = [.. Enumerable.Range(0, a.Batch).Select(i => i == 0 ? (a.KeyLength > 30 ? 2 : 0) : a.KeyLength - a.QueryLength + 3)];
            _p = new()
            {
                Q = gpu.Upload(Q),
                K = gpu.Upload(K),
                V = gpu.Upload(V),
                FirstKey = gpu.Upload(FirstKey),
                DO = gpu.Upload(G),
                Batch = a.Batch,
                QueryLength = a.QueryLength,
                KeyLength = a.KeyLength,
                Heads = a.Heads,
                KvHeads = a.KvHeads,
                HeadDim = a.HeadDim,
                KeyStride = a.KeyStride,
                Window = a.Window,
                Scale = a.Scale,
                SoftCap = a.SoftCap,
            };
        }

        public AttentionArgs Args { get; }

        public int Queries { get; }

        public float[] Q { get; }

        public float[] K { get; }

        public float[] V { get; }

        public float[] G { get; }

        public int[] FirstKey { get; }

        public (float[] O, float[] Lse, ushort[] Copy) Forward()
        {
            _p = _p with { O = _gpu.Empty<float>(Q.Length), Lse = _gpu.Empty<float>(Queries), Copy = _gpu.Empty<ushort>(Q.Length) };
            Launch("forward", _rows, 64, _padded == 256 ? 65536 : 256 * _padded);
            return (_gpu.Read(_p.O, Q.Length), _gpu.Read(_p.Lse, Queries), _gpu.Read<ushort>(_p.Copy, Q.Length));
        }

        public (float[] Dq, float[] Dk, float[] Dv, float[] Delta) Backward(params float[][] start)
        {
            ulong Gradient(int i, int n) => start.Length > 0 ? _gpu.Upload(start[i]) : _gpu.Empty<float>(n);
            // Keys behind the last one of a sequence are nobody's; they stay what they were.
            _p = _p with { Delta = _gpu.Empty<float>(Queries), Dq = Gradient(0, Q.Length), Dk = Gradient(1, K.Length), Dv = Gradient(2, K.Length), Accumulate = start.Length > 0 ? 1 : 0 };
            Launch("queries", _rows, 64, _padded == 256 ? 98304 : 256 * _padded);
            Launch("keys", Args.KeyLength, _padded == 256 ? 32 : 64, _padded == 256 ? 70016 : (384 * _padded) + 384);
            return (_gpu.Read(_p.Dq, Q.Length), _gpu.Read(_p.Dk, K.Length), _gpu.Read(_p.Dv, K.Length), _gpu.Read(_p.Delta, Queries));
        }

        private void Launch(string what, int lines, int linesOfBlock, int shared)
        {
            LaunchCounters counters = _gpu.Run("attention_rounded", $"attention_{what}_rounded_{_padded}", (Gpu.Ceil(lines, linesOfBlock), _problems, 1), 128, shared, _p);
            Assert.Equal(0, counters.BankConflicts);
        }
    }

    /// <summary>
    /// The same in double, of rounded or plain operands. Value: the result. Terms: the sum of its terms' sizes, a term being P or dS times an operand.
    /// Delta is of o as the kernel left it.
    /// </summary>
    private sealed class Doubles
    {
        public Doubles(Run run, float[] o, bool rounds)
        {
            AttentionArgs a = run.Args;
            double[] Of(float[] values) => Array.ConvertAll(values, v => (double)(rounds ? MatMulKernelTests.Widen(MatMulKernelTests.BFloat(v)) : v));
            double[] q = Of(run.Q), k = Of(run.K), v = Of(run.V), g = Of(run.G);
            int depth = a.HeadDim;
            O = new (double, double)[q.Length];
            Dq = new (double, double)[q.Length];
            Dk = new (double, double)[k.Length];
            Dv = new (double, double)[k.Length];
            Lse = new double[run.Queries];
            Delta = new double[run.Queries];
            for (int row = 0; row < run.Queries; row++)
            {
                int head = row % a.Heads, token = row / a.Heads, sequence = token / a.QueryLength, query = a.KeyLength - a.QueryLength + (token % a.QueryLength);
                int Place(int key) => ((((sequence * a.KeyStride) + key) * a.KvHeads) + (head / a.Group)) * depth;
                int[] keys = [.. Enumerable.Range(0, query + 1).Where(key => key >= run.FirstKey[sequence] && (a.Window == 0 || key > query - a.Window))];
                double[] slopes = new double[keys.Length], scores = [.. keys.Select(key => Dot(q, row * depth, k, Place(key)) * a.Scale)];
                for (int j = 0; j < keys.Length; j++)
                {
                    double t = a.SoftCap > 0 ? Math.Tanh(scores[j] / a.SoftCap) : 0;
                    slopes[j] = 1 - (t * t);
                    scores[j] = a.SoftCap > 0 ? a.SoftCap * t : scores[j];
                }
                double most = keys.Length == 0 ? 0 : scores.Max(), total = scores.Sum(s => Math.Exp(s - most));
                Lse[row] = most + Math.Log(total);
                for (int d = 0; d < depth; d++)
                    Delta[row] += (double)run.G[(row * depth) + d] * o[(row * depth) + d];
                for (int j = 0; j < keys.Length; j++)
                {
                    int key = Place(keys[j]);
                    double p = Math.Exp(scores[j] - Lse[row]), dS = p * (Dot(g, row * depth, v, key) - Delta[row]) * slopes[j] * a.Scale;
                    for (int d = 0; d < depth; d++)
                    {
                        Add(ref O[(row * depth) + d], p * v[key + d]);
                        Add(ref Dq[(row * depth) + d], dS * k[key + d]);
                        Add(ref Dk[key + d], dS * q[(row * depth) + d]);
                        Add(ref Dv[key + d], p * g[(row * depth) + d]);
                    }
                }
            }

            double Dot(double[] x, int xAt, double[] y, int yAt)
            {
                double sum = 0;
                for (int d = 0; d < depth; d++)
                    sum += x[xAt + d] * y[yAt + d];
                return sum;
            }

            static void Add(ref (double Value, double Terms) to, double term) => to = (to.Value + term, to.Terms + Math.Abs(term));
        }

        public (double Value, double Terms)[] O { get; }

        public (double Value, double Terms)[] Dq { get; }

        public (double Value, double Terms)[] Dk { get; }

        public (double Value, double Terms)[] Dv { get; }

        public double[] Lse { get; }

        public double[] Delta { get; }
    }
}
