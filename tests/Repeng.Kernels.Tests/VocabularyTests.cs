using Repeng.Kernels.Tests.Reference;
using Repeng.Testing;
using Xunit;

namespace Repeng.Kernels.Tests;

/// <summary>Embedding and the chunked ops on logits against double arithmetic on whole rows.</summary>
public sealed class VocabularyTests
{
    private const double Tolerance = 1e-5;

    public static TheoryData<string> BackendNames() => [.. Backends.Names];

    /// <summary>Rows, vocabulary, columns of a chunk, soft cap, spread of the logits.</summary>
    public static TheoryData<string, int, int, int, float, double> HeadCases()
    {
        TheoryData<string, int, int, int, float, double> cases = [];
        foreach (string backend in Backends.Names)
        {
            foreach ((int rows, int vocabulary, int chunk, float softCap, double spread) in new[]
            {
                (1, 1, 1, 0f, 3.0), (1, 2, 1, 0f, 3), (3, 70, 70, 0f, 5), (5, 71, 13, 30f, 20), (4, 500, 64, 8f, 6), (2, 40_000, 9000, 0f, 8), (33, 1200, 500, 0f, 30), (2, 100, 33, 0f, 300),
            })
                cases.Add(backend, rows, vocabulary, chunk, softCap, spread);
            for (int vocabulary = 3; vocabulary <= 70; vocabulary += 3)
                cases.Add(backend, 2, vocabulary, 9, 0, 4);
        }
        return cases;
    }

    public static TheoryData<string, DType, int, int> EmbeddingCases()
    {
        TheoryData<string, DType, int, int> cases = [];
        foreach (string backend in Backends.Names)
            foreach (DType type in new[] { DType.F32, DType.F16, DType.BF16 })
            {
                foreach ((int rows, int dim) in new[] { (1, 1), (300, 131), (3, 20_001) })
                    cases.Add(backend, type, rows, dim);
                for (int dim = 1; dim <= 70; dim += 3)
                    cases.Add(backend, type, 5, dim);
            }
        return cases;
    }

    [Theory]
    [InlineData(0.0)]
    [InlineData(4.0)]
    public void ReferenceGradientsEqualFiniteDifferences(double softCap)
    {
        const int Vocabulary = 12;
        const double Step = 1e-5;
        double[] x = Scaled(ReduceReference.Random(Vocabulary, 1), 3), xRef = Scaled(ReduceReference.Random(Vocabulary, 2), 3);
        double[] logProb = VocabularyReference.LogProbGradient(x, 4, softCap), tv = VocabularyReference.TotalVariationGradient(x, xRef, softCap);
        for (int i = 0; i < Vocabulary; i++)
        {
            double[] up = [.. x], down = [.. x];
            up[i] += Step;
            down[i] -= Step;
            Assert.Equal((VocabularyReference.LogProb(up, 4, softCap) - VocabularyReference.LogProb(down, 4, softCap)) / (2 * Step), logProb[i], 1e-6);
            Assert.Equal((VocabularyReference.TotalVariation(up, xRef, softCap) - VocabularyReference.TotalVariation(down, xRef, softCap)) / (2 * Step), tv[i], 1e-6);
        }
    }

    [Theory]
    [MemberData(nameof(HeadCases))]
    public void ChunkedHeadEqualsReference(string backend, int rows, int vocabulary, int chunk, float softCap, double spread)
    {
        using IBackend b = Backends.Create(backend);
        using TestMemory memory = new(b);
        double[] raw = Scaled(ReduceReference.Random(rows * vocabulary, 1), spread), rawRef = Scaled(ReduceReference.Random(rows * vocabulary, 2), spread);
        double[] dLogProb = ReduceReference.Random(rows, 3), dTv = ReduceReference.Random(rows, 4);
        int[] labels = ReduceReference.RandomIndices(rows, vocabulary, 5);
        Head head = new(b, memory, rows, vocabulary, chunk, softCap, raw, rawRef, labels, dLogProb, dTv);

        double[] logSumExp = new double[rows], logProb = new double[rows], entropy = new double[rows], tv = new double[rows];
        double[] byLogProb = new double[raw.Length], byTv = new double[raw.Length];
        for (int row = 0; row < rows; row++)
        {
            double[] x = raw.AsSpan(row * vocabulary, vocabulary).ToArray(), xRef = rawRef.AsSpan(row * vocabulary, vocabulary).ToArray();
            double[] capped = Array.ConvertAll(x, v => VocabularyReference.Cap(v, softCap));
            logSumExp[row] = VocabularyReference.LogSumExp(capped);
            logProb[row] = VocabularyReference.LogProb(x, labels[row], softCap);
            entropy[row] = VocabularyReference.Entropy(capped);
            tv[row] = VocabularyReference.TotalVariation(x, xRef, softCap);
            double[] g = VocabularyReference.LogProbGradient(x, labels[row], softCap), h = VocabularyReference.TotalVariationGradient(x, xRef, softCap);
            for (int i = 0; i < vocabulary; i++)
            {
                byLogProb[(row * vocabulary) + i] = dLogProb[row] * g[i];
                byTv[(row * vocabulary) + i] = (dTv[row] * h[i]) + (dLogProb[row] * g[i]);
            }
        }
        Close.To(1e-6, head.LogSumExp, logSumExp, "log-sum-exp");
        for (int row = 0; row < rows; row++)
            Assert.Equal(logProb[row], head.Target[row] - (double)head.LogSumExp[row], 1e-6 * Math.Max(spread, 10));
        // The rounding of a logit of size 100 is an error of 1e-5 in its probability.
        double tolerance = Tolerance * Math.Max(1, spread / 20);
        Close.To(tolerance, head.Entropy, entropy, "entropy");
        Close.To(tolerance, head.TotalVariation, tv, "total variation");
        Close.To(tolerance, head.ByLogProb, byLogProb, "gradient of the log-probability");
        Close.To(tolerance, head.ByTotalVariation, byTv, "gradient of the total variation, added to the other");
    }

    [Theory]
    [MemberData(nameof(BackendNames))]
    public void EqualDistributionsHaveNoVariationAndNoGradient(string backend)
    {
        const int Rows = 3, Vocabulary = 97;
        using IBackend b = Backends.Create(backend);
        using TestMemory memory = new(b);
        double[] raw = Scaled(ReduceReference.Random(Rows * Vocabulary, 1), 9);
        Head head = new(b, memory, Rows, Vocabulary, 40, 0, raw, raw, new int[Rows], new double[Rows], [1, 1, 1]);
        Assert.All(head.TotalVariation, v => Assert.Equal(0, v));
        Assert.All(head.ByTotalVariation, v => Assert.Equal(0, v));
    }

    [Theory]
    [MemberData(nameof(BackendNames))]
    public void MaskedAndExtremeLogitsStayFinite(string backend)
    {
        const int Rows = 4, Vocabulary = 6;
        const double None = double.NegativeInfinity;
        using IBackend b = Backends.Create(backend);
        using TestMemory memory = new(b);
        double[] raw =
        [
            None, 1, None, 2, None, None, // most of the row masked
            None, None, None, None, None, 7, // one entry left
            1e30, -1e30, 3e38, -3e38, 0, 0, // one entry far above all others
            -3e38, -3e38, -3e38, -3e38, -3e38, -3e38, // all equal at the end of the range
        ];
        // Chunks of two: the first chunk of the first two rows holds no finite or only few logits.
        Head head = new(b, memory, Rows, Vocabulary, 2, 0, raw, raw, [3, 5, 2, 1], [1, 1, 1, 1], [1, 1, 1, 1]);
        Close.To(1e-6, head.LogSumExp.AsSpan(0, 2), [2 + Math.Log(1 + Math.Exp(-1)), 7], "log-sum-exp");
        Assert.Equal(3e38f, head.LogSumExp[2]);
        Assert.Equal(-3e38f, head.LogSumExp[3]);
        double q = 1 / (1 + Math.E), entropy = -(q * Math.Log(q)) - ((1 - q) * Math.Log(1 - q));
        Close.To(1e-5, head.Entropy.AsSpan(0, 3), [entropy, 0, 0], "entropy");
        Close.To(1e-5, head.ByLogProb.AsSpan(0, 18), [0, -q, 0, q, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0], "gradient");
        Assert.All(head.ByLogProb, v => Assert.True(float.IsFinite(v)));
        Assert.All(head.TotalVariation, v => Assert.Equal(0, v));
    }

    [Theory]
    [MemberData(nameof(BackendNames))]
    public void RowsWithoutAnyLogitAreEmptyAndNaNIsNotHidden(string backend)
    {
        using IBackend b = Backends.Create(backend);
        using TestMemory memory = new(b);
        float[] x = [float.NegativeInfinity, float.NegativeInfinity, float.NegativeInfinity, 1, float.NaN, 2, float.NaN, float.NegativeInfinity, float.NegativeInfinity];
        View max = memory.Empty(3, float.NegativeInfinity), sum = memory.Zeros(3), lse = memory.Empty(3), logits = memory.Of(x);
        b.LogSumExpChunk(max, sum, logits, 3, 3);
        b.LogSumExpFinish(lse, max, sum, 3);
        Assert.Equal([float.NegativeInfinity, float.NaN, float.NaN], memory.Read(lse));
        View entropy = memory.Zeros(3);
        b.EntropyChunk(entropy, logits, lse, 3, 3);
        Assert.Equal([0, float.NaN, float.NaN], memory.Read(entropy));
        b.LogProbBackwardChunk(logits, lse, memory.Of([1f, 1, 1]), memory.Of([8, 8, 8]), 3, 3, 0, 0);
        Assert.Equal([0f, 0, 0], memory.Read(logits)[..3].Select(v => v + 0f));
        Assert.All(memory.Read(logits)[3..], v => Assert.True(float.IsNaN(v)));
    }

    [Theory]
    [MemberData(nameof(BackendNames))]
    public void LabelsOfOtherChunksAreLeftAlone(string backend)
    {
        using IBackend b = Backends.Create(backend);
        using TestMemory memory = new(b);
        View target = memory.Empty(4, -5), logits = memory.Of([1f, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12]);
        b.GatherLabelChunk(target, logits, memory.Of([9, 10, 12, 13]), 4, 3, 10);
        Assert.Equal([-5f, 4, 9, -5], memory.Read(target));
    }

    [Theory]
    [MemberData(nameof(EmbeddingCases))]
    public void EmbeddingEqualsReference(string backend, DType type, int rows, int dim)
    {
        const int Vocabulary = 17;
        const float Scale = 1.7f;
        using IBackend b = Backends.Create(backend);
        using TestMemory memory = new(b);
        double[] table = ReduceReference.Random(Vocabulary * dim, 1), dy = ReduceReference.Random(rows * dim, 2), start = ReduceReference.Random(table.Length, 3);
        int[] ids = ReduceReference.RandomIndices(rows, Vocabulary, 4);
        var bits = new ushort[table.Length];
        for (int i = 0; i < bits.Length && type != DType.F32; i++)
        {
            bits[i] = type == DType.F16 ? BitConverter.HalfToUInt16Bits((Half)table[i]) : (ushort)(BitConverter.SingleToUInt32Bits((float)table[i]) >> 16);
            table[i] = type == DType.F16 ? (double)BitConverter.UInt16BitsToHalf(bits[i]) : BitConverter.UInt32BitsToSingle((uint)bits[i] << 16);
        }
        View y = memory.Empty((rows * dim) + 1, -77), dTable = memory.Of(start), vIds = memory.Of(ids);
        b.EmbeddingForward(y, type == DType.F32 ? memory.Of(table) : memory.Of(bits, type), vIds, rows, dim, Scale);
        float[] result = memory.Read(y);
        Assert.Equal(-77, result[^1]);
        Close.To(2e-6, result.AsSpan(0, rows * dim), ReduceReference.Gather(table, ids, dim, Scale), "forward");
        b.EmbeddingBackward(dTable, memory.Of(dy), vIds, rows, dim, Scale);
        double[] expected = ReduceReference.Scatter(dy, ids, Vocabulary, dim, Scale);
        for (int i = 0; i < expected.Length; i++)
            expected[i] += start[i];
        Close.To(2e-6, memory.Read(dTable), expected, "backward");
        b.EmbeddingBackward(default, memory.Of(dy), vIds, rows, dim, Scale);
    }

    [Fact]
    public void BitsDoNotDependOnThreads()
    {
        const int Rows = 5, Vocabulary = 30_011, Dim = 1003;
        double[] raw = Scaled(ReduceReference.Random(Rows * Vocabulary, 1), 9), rawRef = Scaled(ReduceReference.Random(Rows * Vocabulary, 2), 9);
        int[] labels = ReduceReference.RandomIndices(Rows, Vocabulary, 3), ids = ReduceReference.RandomIndices(200, 90, 4);
        Threads.AssertSameBits((b, memory, results) =>
        {
            Head head = new(b, memory, Rows, Vocabulary, 20_000, 30, raw, rawRef, labels, ReduceReference.Random(Rows, 5), ReduceReference.Random(Rows, 6));
            results.Add(("log-sum-exp", head.LogSumExp));
            results.Add(("entropy", head.Entropy));
            results.Add(("total variation", head.TotalVariation));
            results.Add(("gradient of the log-probability", head.ByLogProb));
            results.Add(("gradient of the total variation", head.ByTotalVariation));
            View y = memory.Empty(200 * Dim), dTable = memory.Zeros(90 * Dim), vIds = memory.Of(ids);
            b.EmbeddingForward(y, memory.Of(raw.AsSpan(0, 90 * Dim)), vIds, 200, Dim, 0.3f);
            b.EmbeddingBackward(dTable, y, vIds, 200, Dim, 0.3f);
            results.Add(("embedding", memory.Read(y)));
            results.Add(("embedding backward", memory.Read(dTable)));
        });
    }

    [Fact]
    public void NothingIsAllocated()
    {
        const int Rows = 6, Cols = 9000;
        using IBackend b = Backends.Create("cpu", 2);
        using TestMemory memory = new(b);
        View logits = memory.Zeros(Rows * Cols), other = memory.Zeros(Rows * Cols), r = memory.Zeros(Rows), s = memory.Zeros(Rows), t = memory.Zeros(Rows), labels = memory.Of(new int[Rows]);
        Allocation.AssertNone(() =>
        {
            b.LogSumExpChunk(r, s, logits, Rows, Cols);
            b.LogSumExpFinish(t, r, s, Rows);
            b.GatherLabelChunk(r, logits, labels, Rows, Cols, 0);
            b.EntropyChunk(r, logits, t, Rows, Cols);
            b.TotalVariationChunk(r, s, other, t, logits, t, Rows, Cols);
            b.LogProbBackwardChunk(logits, t, r, labels, Rows, Cols, 0, 30);
            b.TotalVariationBackwardChunk(logits, t, other, t, r, s, default, Rows, Cols, 30);
            b.EmbeddingForward(logits, other, labels, Rows, Cols, 1);
            b.EmbeddingBackward(other, logits, labels, Rows, Cols, 1);
        });
    }

    [Theory]
    [MemberData(nameof(BackendNames))]
    public void OperandsAndIdsThatDoNotFitAreNamed(string backend)
    {
        using IBackend b = Backends.Create(backend);
        using TestMemory memory = new(b);
        View six = memory.Zeros(6), two = memory.Zeros(2), one = memory.Zeros(1), ids = memory.Of([0, 3]), negative = memory.Of([0, -1]);
        if (Backends.ChecksIndices(backend))
        {
            Assert.Equal("EmbeddingForward: ids[1] is 3, valid are 0 … 2", Assert.Throws<ArgumentException>(() => b.EmbeddingForward(six, six, ids, 2, 2, 1)).Message);
            Assert.Equal("EmbeddingBackward: ids[1] is 3, valid are 0 … 2", Assert.Throws<ArgumentException>(() => b.EmbeddingBackward(six, six, ids, 2, 2, 1)).Message);
            Assert.Contains("ids[1] is -1", Assert.Throws<ArgumentException>(() => b.EmbeddingForward(six, six, negative, 2, 2, 1)).Message);
            Assert.Contains("labels[1] is -1", Assert.Throws<ArgumentException>(() => b.GatherLabelChunk(two, six, negative, 2, 3, 0)).Message);
            Assert.Contains("labels[1] is -1", Assert.Throws<ArgumentException>(() => b.LogProbBackwardChunk(six, two, two, negative, 2, 3, 0, 0)).Message);
        }
        Assert.Contains("no whole rows of 4", Assert.Throws<ArgumentException>(() => b.EmbeddingForward(six, six, ids, 1, 4, 1)).Message);
        Assert.Contains("operand y has 2", Assert.Throws<ArgumentException>(() => b.EmbeddingForward(two, six, ids, 2, 2, 1)).Message);
        Assert.Contains("operand table is I32", Assert.Throws<ArgumentException>(() => b.EmbeddingForward(six, ids, memory.Of([0]), 1, 2, 1)).Message);
        Assert.Contains("operand logits has 6 × F32, needs 8", Assert.Throws<ArgumentException>(() => b.LogSumExpChunk(two, two, six, 2, 4)).Message);
        Assert.Contains("operand sum has 1", Assert.Throws<ArgumentException>(() => b.LogSumExpChunk(two, one, six, 2, 3)).Message);
        Assert.Contains("operand dLogProb", Assert.Throws<ArgumentException>(() => b.LogProbBackwardChunk(six, two, one, ids, 2, 3, 0, 0)).Message);
        Assert.Contains("operand entropy", Assert.Throws<ArgumentException>(() => b.EntropyChunk(one, six, two, 2, 3)).Message);
        Assert.Contains("operand lseRef", Assert.Throws<ArgumentException>(() => b.TotalVariationChunk(two, two, six, one, six, two, 2, 3)).Message);
        Assert.Contains("operand add", Assert.Throws<ArgumentException>(() => b.TotalVariationBackwardChunk(six, two, six, two, two, two, one, 2, 3, 0)).Message);
    }

    private static double[] Scaled(double[] values, double scale) => Array.ConvertAll(values, v => (double)(float)(v * scale));

    /// <summary>The whole road of a head over chunks, as the tape takes it: forward, then both gradients.</summary>
    private sealed class Head
    {
        public Head(IBackend b, TestMemory memory, int rows, int vocabulary, int chunk, float softCap, double[] raw, double[] rawRef, int[] labels, double[] dLogProb, double[] dTv)
        {
            View Chunk(double[] from, int first, int cols)
            {
                var part = new double[rows * cols];
                for (int row = 0; row < rows; row++)
                    from.AsSpan((row * vocabulary) + first, cols).CopyTo(part.AsSpan(row * cols));
                View v = memory.Of(part);
                if (softCap > 0)
                    b.Unary(v, v, v.Length, UnaryOp.SoftCap, softCap);
                return v;
            }
            View LogSumExpOf(double[] from)
            {
                View max = memory.Empty(rows, float.NegativeInfinity), sum = memory.Zeros(rows), lse = memory.Empty(rows);
                for (int first = 0; first < vocabulary; first += chunk)
                {
                    int cols = Math.Min(chunk, vocabulary - first);
                    b.LogSumExpChunk(max, sum, Chunk(from, first, cols), rows, cols);
                }
                b.LogSumExpFinish(lse, max, sum, rows);
                return lse;
            }

            View lse = LogSumExpOf(raw), lseRef = LogSumExpOf(rawRef), target = memory.Empty(rows), entropy = memory.Zeros(rows), tv = memory.Zeros(rows), dot = memory.Zeros(rows);
            View vLabels = memory.Of(labels), up = memory.Of(dLogProb), upTv = memory.Of(dTv);
            for (int first = 0; first < vocabulary; first += chunk)
            {
                int cols = Math.Min(chunk, vocabulary - first);
                View x = Chunk(raw, first, cols);
                b.GatherLabelChunk(target, x, vLabels, rows, cols, first);
                b.EntropyChunk(entropy, x, lse, rows, cols);
                b.TotalVariationChunk(tv, dot, Chunk(rawRef, first, cols), lseRef, x, lse, rows, cols);
            }
            ByLogProb = new float[rows * vocabulary];
            ByTotalVariation = new float[rows * vocabulary];
            for (int first = 0; first < vocabulary; first += chunk)
            {
                int cols = Math.Min(chunk, vocabulary - first);
                View g = Chunk(raw, first, cols), h = Chunk(raw, first, cols);
                b.LogProbBackwardChunk(g, lse, up, vLabels, rows, cols, first, softCap);
                b.TotalVariationBackwardChunk(h, lse, Chunk(rawRef, first, cols), lseRef, dot, upTv, g, rows, cols, softCap);
                for (int row = 0; row < rows; row++)
                {
                    memory.Read(g).AsSpan(row * cols, cols).CopyTo(ByLogProb.AsSpan((row * vocabulary) + first));
                    memory.Read(h).AsSpan(row * cols, cols).CopyTo(ByTotalVariation.AsSpan((row * vocabulary) + first));
                }
            }
            LogSumExp = memory.Read(lse);
            Target = memory.Read(target);
            Entropy = memory.Read(entropy);
            TotalVariation = memory.Read(tv);
        }

        public float[] LogSumExp { get; }

        public float[] Target { get; }

        public float[] Entropy { get; }

        public float[] TotalVariation { get; }

        public float[] ByLogProb { get; }

        public float[] ByTotalVariation { get; }
    }
}
