using Repeng.Kernels;
using Repeng.Kernels.Cpu;
using Repeng.Testing;

namespace Repeng.Cuda.Tests;

/// <summary>
/// The op contract as the engine calls it: launch code and kernels on the emulator against the CPU backend, which is itself held against double
/// references. Sizes are small and ragged; families that are not here run their whole theories on the emulator in Repeng.Kernels.Tests.
/// </summary>
public sealed class CudaBackendTests
{
    public static TheoryData<string> GpuBackends() => [.. Backends.Names.Where(n => n != "cpu")];

    [Theory, MemberData(nameof(GpuBackends))]
    public void ProductsOfEveryLayoutEqualTheCpus(string backend) => Both(backend, (b, memory, random) =>
    {
        foreach ((bool transA, bool transB, int m, int n, int k, int batch) in ((bool, bool, int, int, int, int)[])[
            (false, true, 1, 70, 33, 1), (false, true, 7, 20, 64, 1), (false, true, 65, 70, 40, 1), (false, false, 30, 66, 17, 3), (true, false, 33, 9, 65, 1), (true, true, 5, 64, 21, 2),
            // Few columns over a long sum: cut into stretches of it.
            (false, true, 33, 24, 1100, 1), (false, false, 9, 65, 1024, 1), (true, false, 20, 7, 1060, 1)])
            foreach (DType type in (DType[])[DType.F32, DType.BF16, DType.F16])
                foreach (bool accumulate in (bool[])[false, true])
                {
                    View a = memory.Of(random.Next(m * k * batch)), w = random.Weight(memory, n * k * batch, type), c = memory.Of(random.Next(m * n * batch));
                    b.MatMul(c, a, w, new MatMulArgs(m, n, k, transA, transB, accumulate, Batch: batch, StrideA: (long)m * k, StrideB: (long)n * k, StrideC: (long)m * n));
                    random.Keep($"{m}x{n}x{k} {transA} {transB} {type} {accumulate}", memory.Read(c));
                }
    }, 1e-5);

    [Theory, MemberData(nameof(GpuBackends))]
    public void LowRankTermsEqualTheCpus(string backend) => Both(backend, (b, memory, random) =>
    {
        const int outputs = 40, inputs = 36, rank = 8;
        foreach (int rows in (int[])[3, 20])
            foreach (bool mixed in (bool[])[false, true])
            {
                View y = memory.Empty(rows * outputs), x = memory.Of(random.Next(rows * inputs)), w = random.Weight(memory, outputs * inputs, DType.F32);
                View down = memory.Of(random.Next(rank * inputs)), u = memory.Of(random.Next(outputs * rank)), m = mixed ? memory.Of(random.Next(rank * rank)) : default;
                View room = memory.Empty(2L * rows * rank);
                b.MatMulTerm(y, x, w, down, u, [new TermSegment(0, rows, m)], room, new TermArgs(rows, outputs, inputs, rank));
                random.Keep($"{rows} rows, one segment", memory.Read(y));
                b.MatMulTerm(y, x, w, down, u, [new TermSegment(1, 1, m), new TermSegment(2, rows - 2, default)], room, new TermArgs(rows, outputs, inputs, rank));
                random.Keep($"{rows} rows, two segments", memory.Read(y));
            }
    }, 2e-5);

    [Theory, MemberData(nameof(GpuBackends))]
    public void TermsHaveTheBitsOfTheProductsOneByOne(string backend)
    {
        using IBackend b = Backends.Create(backend);
        using var memory = new TestMemory(b);
        // In one launch, and where the product alone is cut by its depth.
        foreach ((int rows, int outputs, int inputs, int rank) in new[] { (20, 40, 36, 8), (12, 100, 1100, 8) })
        {
            View x = memory.Of(Gpu.Random(rows * inputs, 1)), w = memory.Of(Gpu.Random(outputs * inputs, 2)), down = memory.Of(Gpu.Random(rank * inputs, 3)), u = memory.Of(Gpu.Random(outputs * rank, 4)), m = memory.Of(Gpu.Random(rank * rank, 5));
            View y = memory.Empty(rows * outputs), expected = memory.Empty(rows * outputs), room = memory.Empty(2L * rows * rank);
            foreach (TermSegment[] segments in new TermSegment[][] { [new(0, rows, m)], [new(0, rows, default)], [new(1, 4, m)] })
            {
                b.MatMulTerm(y, x, w, down, u, segments, room, new TermArgs(rows, outputs, inputs, rank));
                TermArgs.OneByOne(b, expected, x, w, down, u, segments, room, new TermArgs(rows, outputs, inputs, rank));
                Assert.Equal(memory.Read(expected), memory.Read(y));
            }
        }
    }

    [Theory, MemberData(nameof(GpuBackends))]
    public void WhatTheContractRefusesIsRefusedHere(string backend)
    {
        using IBackend b = Backends.Create(backend);
        using var memory = new TestMemory(b);
        View a = memory.Zeros(64), c = memory.Zeros(64), ids = memory.Of([0, 1, 2, 3]);
        Assert.Contains("overwrite each other", Assert.Throws<ArgumentException>(() => b.MatMul(c, a, a, new MatMulArgs(2, 2, 2, Batch: 2, StrideA: 4, StrideB: 4))).Message);
        Assert.Contains("negative", Assert.Throws<ArgumentException>(() => b.MatMul(c, a, a, new MatMulArgs(2, 2, 2, Batch: 2, StrideA: -4, StrideB: 4, StrideC: 4))).Message);
        Assert.Contains("I32", Assert.Throws<ArgumentException>(() => b.MatMulGroups(memory.Zeros(384), a, [new(0, 1, memory.Of(Gpu.Random(768, 1))), new(1, 1, memory.Of(new int[768]))], new GroupArgs(192, 4, TransB: true))).Message);
        Assert.Contains("cos", Assert.Throws<ArgumentException>(() => b.Rope(c, a, ids, ids, ids, 4, 1, 4, 4, false, false, false)).Message);
        Assert.Contains("window", Assert.Throws<ArgumentException>(() => b.AttentionForward(c, c, a, a, a, ids, new AttentionArgs(1, 2, 2, 1, 1, 4, 1, Window: -1))).Message);
    }

    [Theory, MemberData(nameof(GpuBackends))]
    public void AttentionEqualsTheCpus(string backend) => Both(backend, (b, memory, random) =>
    {
        foreach (AttentionArgs args in (AttentionArgs[])[
            new(2, 21, 21, 4, 2, 16, 0.25f), new(1, 70, 70, 2, 1, 64, 0.125f, SoftCap: 20, Window: 9), new(2, 1, 300, 4, 2, 32, 0.2f, KeyCapacity: 310), new(1, 5, 33, 1, 1, 96, 0.1f),
            // More rows than a block has, at each size that the kernels are made for.
            new(1, 40, 40, 2, 1, 32, 0.2f), new(1, 40, 40, 2, 1, 128, 0.1f), new(1, 20, 20, 2, 1, 160, 0.1f)])
        {
            int queries = args.Batch * args.QueryLength * args.Heads, keys = args.Batch * args.KeyStride * args.KvHeads * args.HeadDim;
            View q = memory.Of(random.Next(queries * args.HeadDim)), k = memory.Of(random.Next(keys)), v = memory.Of(random.Next(keys)), o = memory.Empty(queries * args.HeadDim), lse = memory.Empty(queries);
            View first = memory.Of([.. Enumerable.Range(0, args.Batch).Select(i => 3 * i)]), delta = memory.Empty(queries), sinks = memory.Of(random.Next(args.Heads));
            b.AttentionForward(o, lse, q, k, v, first, args);
            random.Keep($"{args}: o", memory.Read(o));
            View dO = memory.Of(random.Next(queries * args.HeadDim)), dq = memory.Zeros(queries * args.HeadDim), dk = memory.Zeros(keys), dv = memory.Zeros(keys), dSinks = memory.Zeros(args.Heads);
            b.AttentionSinksForward(o, lse, sinks, args.Batch * args.QueryLength, args.Heads, args.HeadDim);
            b.AttentionBackward(dq, dk, dv, dO, o, lse, delta, q, k, v, first, args);
            b.AttentionSinksBackward(dSinks, delta, lse, sinks, args.Batch * args.QueryLength, args.Heads);
            random.Keep($"{args}: o with sinks", memory.Read(o));
            random.Keep($"{args}: dq", memory.Read(dq));
            random.Keep($"{args}: dk", memory.Read(dk));
            random.Keep($"{args}: dv", memory.Read(dv));
            random.Keep($"{args}: dSinks", memory.Read(dSinks));
        }
    }, 1e-3);

    [Theory, MemberData(nameof(GpuBackends))]
    public void NormsAndRotaryEmbeddingEqualTheCpus(string backend) => Both(backend, (b, memory, random) =>
    {
        foreach ((int rows, int cols) in ((int, int)[])[(9, 48), (3, 700), (5, 33)])
        {
            View x = memory.Of(random.Next(rows * cols)), w = memory.Of(random.Next(cols)), bias = memory.Of(random.Next(cols)), dy = memory.Of(random.Next(rows * cols));
            View y = memory.Empty(rows * cols), mean = memory.Empty(rows), rstd = memory.Empty(rows), dx = memory.Zeros(rows * cols), dw = memory.Zeros(cols), db = memory.Zeros(cols);
            b.RmsNormForward(y, rstd, x, w, rows, cols, 1e-5f, 1);
            b.RmsNormBackward(dx, dw, dy, x, w, rstd, rows, cols, 1);
            random.Keep("rms y", memory.Read(y));
            random.Keep("rms dx", memory.Read(dx));
            random.Keep("rms dw", memory.Read(dw));
            b.LayerNormForward(y, mean, rstd, x, w, rows > 4 ? bias : default, rows, cols, 1e-5f);
            b.LayerNormBackward(dx, dw, db, dy, x, w, mean, rstd, rows, cols);
            random.Keep("layer y", memory.Read(y));
            random.Keep("layer dx", memory.Read(dx));
            random.Keep("layer dw", memory.Read(dw));
            random.Keep("layer db", memory.Read(db));
        }
        foreach (bool interleaved in (bool[])[false, true])
        {
            View x = memory.Of(random.Next(3 * 2 * 20)), cos = memory.Of(random.Next(10 * 8)), sin = memory.Of(random.Next(10 * 8)), positions = memory.Of([4, 0, 9]), y = memory.Zeros(3 * 2 * 20);
            b.Rope(y, x, cos, sin, positions, 3, 2, 20, 16, interleaved, inverse: false, accumulate: false);
            b.Rope(y, x, cos, sin, positions, 3, 2, 20, 16, interleaved, inverse: true, accumulate: true);
            random.Keep("rope", memory.Read(y));
        }
    }, 1e-5);

    [Theory, MemberData(nameof(GpuBackends))]
    public void RotationsEqualTheCpus(string backend) => Both(backend, (b, memory, random) =>
    {
        foreach ((int n, int batch) in ((int, int)[])[(8, 3), (33, 2)])
        {
            int size = n * n * batch;
            View p = memory.Of(random.Next(size)), x = memory.Empty(size), r = memory.Empty(size), dr = memory.Of(random.Next(size)), dx = memory.Zeros(size);
            b.Skew(x, p, n, batch, accumulate: false);
            b.CayleyForward(r, x, n, batch);
            b.CayleyBackward(dx, dr, r, n, batch);
            random.Keep("cayley", memory.Read(r));
            random.Keep("cayley dx", memory.Read(dx));
            b.MatrixExpForward(r, x, n, batch);
            b.MatrixExpBackward(dx, dr, x, n, batch);
            random.Keep("exp", memory.Read(r));
            random.Keep("exp dx", memory.Read(dx));
        }
    }, 1e-5);

    private static void Both(string backend, Action<IBackend, TestMemory, Draws> work, double tolerance)
    {
        Draws expected = new(), actual = new();
        using (CpuBackend cpu = new(1))
        using (TestMemory memory = new(cpu))
            work(cpu, memory, expected);
        using (IBackend gpu = Backends.Create(backend))
        using (TestMemory memory = new(gpu))
            work(gpu, memory, actual);
        Assert.NotEmpty(actual.Kept);
        foreach (((string what, float[] a), (string _, float[] e)) in actual.Kept.Zip(expected.Kept))
            Close.To(tolerance, a, e, what);
    }

    /// <summary>The same numbers for both backends, and what each made of them.</summary>
    private sealed class Draws
    {
        private readonly Random _random = new(7);

        public List<(string What, float[] Values)> Kept { get; } = [];

        public ReadOnlySpan<float> Next(int n)
        {
            var values = new float[n];
            for (int i = 0; i < n; i++)
                values[i] = (float)(_random.NextDouble() * 2 - 1);
            return values;
        }

        public View Weight(TestMemory memory, int n, DType type)
        {
            if (type == DType.F32)
                return memory.Of(Next(n));
            var bits = new ushort[n];
            for (int i = 0; i < n; i++)
            {
                float x = (float)(_random.NextDouble() * 2 - 1);
                bits[i] = type == DType.BF16 ? (ushort)(BitConverter.SingleToUInt32Bits(x) >> 16) : BitConverter.HalfToUInt16Bits((Half)x);
            }
            return memory.Of(bits.AsSpan(), type);
        }

        public void Keep(string what, float[] values) => Kept.Add((what, values));
    }
}
