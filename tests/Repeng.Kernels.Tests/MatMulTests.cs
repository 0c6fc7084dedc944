using Repeng.Kernels.Cpu;
using Repeng.Kernels.Tests.Reference;
using Repeng.Testing;

namespace Repeng.Kernels.Tests;

/// <summary>MatMul, AddBias and AddBiasBackward against double precision: values, layouts, element types, bits, errors.</summary>
public sealed class MatMulTests
{
    // Edges of register tiles (6, 8, 12 × 8, 16, 32), of the thin path (8), of the left block (144) and the depth block (640);
    // rows a multiple of 4 KiB apart (1024).
    private static readonly (int M, int N, int K)[] s_shapes =
    [
        (1, 1, 1), (1, 7, 5), (1, 100, 129), (2, 33, 70), (3, 26, 67), (5, 40, 390), (7, 9, 17), (8, 65, 401),
        (9, 9, 9), (6, 16, 64), (12, 32, 20), (13, 33, 31), (64, 64, 64), (25, 70, 1300), (150, 50, 40), (200, 1, 33),
        (301, 5, 19), (40, 3, 500), (97, 131, 385), (150, 9, 9), (16, 10, 33), (20, 40, 1024),
    ];

    private static readonly DType[] s_weightTypes = [DType.F32, DType.F16, DType.BF16];

    public static TheoryData<string, bool, bool, DType> Layouts()
    {
        var rows = new TheoryData<string, bool, bool, DType>();
        foreach (string backend in Backends.Fast)
            foreach (bool transA in new[] { false, true })
                foreach (bool transB in new[] { false, true })
                    foreach (DType type in s_weightTypes)
                        rows.Add(backend, transA, transB, type);
        return rows;
    }

    public static TheoryData<string> Names() => new(Backends.Fast);

    public static TheoryData<int, DType> Widths()
    {
        var rows = new TheoryData<int, DType>();
        foreach (GemmWidth width in Enum.GetValues<GemmWidth>())
            foreach (DType type in s_weightTypes)
                rows.Add((int)width, type);
        return rows;
    }

    [Theory, MemberData(nameof(Layouts))]
    public void Equals_the_reference_for_every_shape(string backend, bool transA, bool transB, DType type)
    {
        using IBackend ops = Backends.Create(backend);
        foreach ((int m, int n, int k) in s_shapes)
        {
            Check(ops, new MatMulArgs(m, n, k, transA, transB), type);
            Check(ops, new MatMulArgs(m, n, k, transA, transB, Accumulate: true), type);
        }
    }

    [Theory, MemberData(nameof(Layouts))]
    public void Keeps_to_row_strides_and_batch_strides(string backend, bool transA, bool transB, DType type)
    {
        using IBackend ops = Backends.Create(backend);
        foreach ((int m, int n, int k) in new[] { (3, 20, 30), (20, 30, 40), (30, 4, 21), (11, 17, 500) })
        {
            int ldA = (transA ? m : k) + 3, ldB = (transB ? k : n) + 5, ldC = n + 2;
            long a = (long)ldA * (transA ? k : m) + 7, b = (long)ldB * (transB ? n : k) + 1, c = (long)ldC * m + 4;
            foreach (bool accumulate in new[] { false, true })
            {
                var args = new MatMulArgs(m, n, k, transA, transB, accumulate, ldA, ldB, ldC, 9, a, b, c);
                Check(ops, args, type);
                Check(ops, args with { StrideA = 0 }, type);
                Check(ops, args with { StrideB = 0 }, type);
            }
            Check(ops, new MatMulArgs(m, n, k, transA, transB, true, ldA, ldB, ldC, 9, a, b, 0), type);
        }
    }

    [Theory, MemberData(nameof(Names))]
    public void Interleaves_heads_by_strides(string backend)
    {
        // q [tokens, heads, dim] times k [tokens, heads, dim] transposed, one product per head.
        const int tokens = 13, heads = 5, dim = 16;
        using IBackend ops = Backends.Create(backend);
        Check(ops, new MatMulArgs(tokens, tokens, dim, TransB: true, LdA: heads * dim, LdB: heads * dim, LdC: heads * tokens,
            Batch: heads, StrideA: dim, StrideB: dim, StrideC: tokens), DType.F32);
    }

    [Theory, MemberData(nameof(Names))]
    public void Splits_large_products_into_blocks(string backend)
    {
        using IBackend ops = Backends.Create(backend);
        Check(ops, new MatMulArgs(9, 3100, 12, TransB: true), DType.F32);
        Check(ops, new MatMulArgs(310, 530, 400), DType.F32);
        Check(ops, new MatMulArgs(2, 3100, 40, TransB: true), DType.BF16);
        Check(ops, new MatMulArgs(2, 3100, 40), DType.BF16);
        Check(ops, new MatMulArgs(70, 90, 800, TransA: true, Batch: 5, StrideA: 56_000, StrideB: 72_000, StrideC: 6_300), DType.F32);
    }

    [Theory, MemberData(nameof(Widths))]
    public void Every_width_equals_the_reference(int width, DType type)
    {
        using var ops = new CpuBackend(2) { MatMulWidth = (GemmWidth)width };
        foreach ((int m, int n, int k) in new[] { (1, 9, 70), (2, 40, 33), (4, 21, 64), (7, 50, 400), (13, 33, 31), (49, 70, 390), (26, 65, 50), (80, 5, 40) })
        {
            foreach (bool trans in new[] { false, true })
            {
                Check(ops, new MatMulArgs(m, n, k, TransB: trans), type);
                Check(ops, new MatMulArgs(m, n, k, TransA: true, TransB: trans, Accumulate: true), type);
            }
        }
    }

    [Theory, MemberData(nameof(Names))]
    public void Half_precision_weights_are_close_to_the_exact_weights(string backend)
    {
        using IBackend ops = Backends.Create(backend);
        var random = new Random(5);
        const int m = 20, n = 60, k = 300;
        double[] a = Uniform(random, m * k), b = Uniform(random, n * k);
        var args = new MatMulArgs(m, n, k, TransB: true);
        double[] expected = MatMulReference.Product(new double[m * n], a, b, args);
        foreach (DType type in new[] { DType.F16, DType.BF16 })
        {
            using var memory = new TestMemory(ops);
            View c = memory.Empty(m * n);
            ops.MatMul(c, memory.Of(a), Weights(memory, b, type, out _), args);
            Close.To(1e-2, memory.Read(c), expected, $"{type} against exact weights");
        }
    }

    [Theory, MemberData(nameof(Names))]
    public void Every_half_number_is_widened_exactly(string backend)
    {
        // Through a product with the identity, on the packed and on the thin path; all 65536 patterns of both types.
        using IBackend ops = Backends.Create(backend);
        const int k = 16;
        const int columns = 65536 / k;
        var bits = new ushort[65536];
        for (int i = 0; i < bits.Length; i++)
            bits[i] = (ushort)i;
        foreach (DType type in new[] { DType.F16, DType.BF16 })
        {
            // Infinity and NaN would spread through zero products, so they are checked with K = 1 below.
            ushort[] finite = Array.ConvertAll(bits, x => float.IsFinite(Widen(x, type)) ? x : (ushort)0);
            foreach (int m in new[] { 1, k })
            {
                using var memory = new TestMemory(ops);
                var a = new double[m * k];
                for (int i = 0; i < m; i++)
                    a[i * k + i] = 1;
                View c = memory.Empty((long)m * columns);
                ops.MatMul(c, memory.Of(a), memory.Of(finite, type), new MatMulArgs(m, columns, k, TransB: true));
                float[] got = memory.Read(c);
                for (int n = 0; n < columns; n++)
                    for (int i = 0; i < m; i++)
                        Assert.Equal(Widen(finite[n * k + i], type), got[i * columns + n]);
            }

            using var line = new TestMemory(ops);
            View all = line.Empty(65536);
            ops.MatMul(all, line.Of(1.0), line.Of(bits, type), new MatMulArgs(1, 65536, 1));
            float[] values = line.Read(all);
            for (int i = 0; i < bits.Length; i++)
                Assert.Equal(Widen(bits[i], type), values[i]);
        }
    }

    [Theory, MemberData(nameof(Names))]
    public void Depth_zero_clears_or_keeps(string backend)
    {
        using IBackend ops = Backends.Create(backend);
        using var memory = new TestMemory(ops);
        View c = memory.Of(1.0, 2, 3, 4, 5, 6);
        ops.MatMul(c, default, default, new MatMulArgs(2, 3, 0, Accumulate: true));
        Assert.Equal([1f, 2, 3, 4, 5, 6], memory.Read(c));
        ops.MatMul(c, default, default, new MatMulArgs(2, 2, 0, LdC: 3));
        Assert.Equal([0f, 0, 3, 0, 0, 6], memory.Read(c));
        ops.MatMul(c, default, default, new MatMulArgs(0, 3, 5));
        ops.MatMul(c, default, default, new MatMulArgs(2, 0, 5));
        Assert.Equal([0f, 0, 3, 0, 0, 6], memory.Read(c));
    }

    [Theory, MemberData(nameof(Names))]
    public void Not_a_number_and_infinity_stay_in_their_rows(string backend)
    {
        using IBackend ops = Backends.Create(backend);
        foreach (int m in new[] { 3, 20 })
        {
            using var memory = new TestMemory(ops);
            const int n = 19, k = 23;
            var a = new double[m * k];
            a[0] = double.NaN;
            a[k + 1] = double.PositiveInfinity;
            var b = new double[n * k];
            Array.Fill(b, 1);
            View c = memory.Empty(m * n);
            ops.MatMul(c, memory.Of(a), memory.Of(b), new MatMulArgs(m, n, k, TransB: true));
            float[] got = memory.Read(c);
            for (int i = 0; i < m * n; i++)
                Assert.Equal(i < n ? float.NaN : i < 2 * n ? float.PositiveInfinity : 0, got[i]);
        }
    }

    [Fact]
    public void Bits_do_not_depend_on_threads()
    {
        foreach ((int m, int n, int k, bool transA, bool transB, int batch) in new[]
        {
            (70, 300, 800, false, true, 1), (300, 70, 500, true, false, 1), (1, 900, 500, false, true, 1), (4, 900, 500, false, false, 1),
            (40, 50, 60, false, true, 20), (200, 200, 100, true, true, 3), (900, 4, 500, false, false, 1),
        })
        {
            var args = new MatMulArgs(m, n, k, transA, transB, Batch: batch, StrideA: (long)m * k, StrideB: (long)n * k, StrideC: (long)m * n);
            float[]? first = null;
            for (int threads = 1; threads <= 4; threads++)
            {
                using var ops = new CpuBackend(threads);
                float[] got = Product(ops, args, DType.F32, 1);
                first ??= got;
                Assert.True(first.AsSpan().SequenceEqual(got), $"{args}: bits differ between 1 and {threads} threads");
            }
        }
    }

    [Theory]
    [InlineData(true, 1, 8)]
    [InlineData(true, 9, 300)]
    [InlineData(false, 1, 300)]
    public void A_rows_bits_do_not_depend_on_how_many_rows_there_are(bool transB, int least, int most)
    {
        using var ops = new CpuBackend(2);
        const int n = 150, k = 700;
        float[] all = Product(ops, new MatMulArgs(most, n, k, TransB: transB), DType.F32, 1);
        foreach (int m in new[] { least, least + 1, least + 2, 8, 9, 16, 17, (least + most) / 2, most - 1 }.Where(m => m >= least && m <= most))
        {
            float[] some = Product(ops, new MatMulArgs(m, n, k, TransB: transB), DType.F32, 1);
            Assert.True(all.AsSpan(0, some.Length).SequenceEqual(some), $"rows of {m} differ from those of {most}");
        }
    }

    [Fact]
    public void Blocked_bits_do_not_depend_on_the_width()
    {
        var args = new MatMulArgs(37, 75, 800, TransB: true);
        float[]? first = null;
        foreach (GemmWidth width in Enum.GetValues<GemmWidth>())
        {
            using var ops = new CpuBackend(2) { MatMulWidth = width };
            float[] got = Product(ops, args, DType.F32, 1);
            first ??= got;
            Assert.True(first.AsSpan().SequenceEqual(got), $"bits differ at {width}");
        }
    }

    [Fact]
    public void Allocates_nothing()
    {
        foreach (int threads in new[] { 1, 3 })
        {
            using var ops = new CpuBackend(threads);
            using var memory = new TestMemory(ops);
            View a = memory.Zeros(200 * 500), b = memory.Zeros(500 * 200), c = memory.Zeros(200 * 200), bias = memory.Zeros(200);
            void Run()
            {
                ops.MatMul(c, a, b, new MatMulArgs(200, 200, 500));
                ops.MatMul(c, a, b, new MatMulArgs(200, 200, 500, TransA: true, TransB: true));
                ops.MatMul(c, a, b, new MatMulArgs(1, 200, 500, TransB: true));
                ops.MatMul(c, a, b, new MatMulArgs(3, 200, 500));
                ops.MatMul(c, a, b, new MatMulArgs(20, 20, 20, Batch: 50, StrideA: 400, StrideB: 400, StrideC: 400));
                ops.AddBias(c, bias, 200, 200);
                ops.AddBiasBackward(bias, c, 200, 200);
            }
            Allocation.AssertNone(Run);
        }
    }

    [Fact]
    public void Wrong_sizes_name_the_operand_and_the_numbers()
    {
        using var ops = new CpuBackend(1);
        using var memory = new TestMemory(ops);
        View six = memory.Zeros(6), five = memory.Zeros(5), ints = memory.Of([1, 2, 3, 4, 5, 6]);
        ushort[] bits = new ushort[6];
        View half = memory.Of(bits, DType.F16);

        Assert.Contains("A has 5 × F32, needs 6", Error(() => ops.MatMul(six, five, six, new MatMulArgs(2, 2, 3))), StringComparison.Ordinal);
        Assert.Contains("B has 5 × F32, needs 6", Error(() => ops.MatMul(six, six, five, new MatMulArgs(2, 2, 3))), StringComparison.Ordinal);
        Assert.Contains("C has 5 × F32, needs 6", Error(() => ops.MatMul(five, six, six, new MatMulArgs(2, 3, 2))), StringComparison.Ordinal);
        Assert.Contains("A has 6 × F16", Error(() => ops.MatMul(six, half, six, new MatMulArgs(2, 3, 2))), StringComparison.Ordinal);
        Assert.Contains("B has 6 × I32", Error(() => ops.MatMul(six, six, ints, new MatMulArgs(2, 3, 2))), StringComparison.Ordinal);
        Assert.Contains("row stride 2, needs at least 3", Error(() => ops.MatMul(six, six, six, new MatMulArgs(2, 2, 3, LdA: 2))), StringComparison.Ordinal);
        Assert.Contains("A has 6 × F32, needs 8", Error(() => ops.MatMul(six, six, six, new MatMulArgs(2, 2, 2, Batch: 2, StrideA: 4, StrideC: 1))), StringComparison.Ordinal);
        Assert.Contains("stride 0", Error(() => ops.MatMul(six, six, six, new MatMulArgs(2, 2, 1, Batch: 2))), StringComparison.Ordinal);
        Assert.Contains("M -1", Error(() => ops.MatMul(six, six, six, new MatMulArgs(-1, 2, 1))), StringComparison.Ordinal);
        Assert.Contains("y has 5", Error(() => ops.AddBias(five, six, 1, 6)), StringComparison.Ordinal);
        Assert.Contains("bias has 5", Error(() => ops.AddBias(six, five, 1, 6)), StringComparison.Ordinal);
        Assert.Contains("dBias has 5", Error(() => ops.AddBiasBackward(five, six, 1, 6)), StringComparison.Ordinal);

        // Lengths beyond 2³¹ elements are compared as such, not after overflow.
        Assert.Contains("needs 4300000000", Error(() => ops.MatMul(six, six, six, new MatMulArgs(43_000, 1, 100_000))), StringComparison.Ordinal);
    }

    [Theory, MemberData(nameof(Names))]
    public void Bias_is_added_to_every_row_and_its_gradient_sums_them(string backend)
    {
        using IBackend ops = Backends.Create(backend);
        var random = new Random(3);
        foreach ((int rows, int cols) in new[] { (1, 1), (5, 7), (64, 64), (300, 201), (3, 70_000), (5_000, 9) })
        {
            using var memory = new TestMemory(ops);
            double[] y = Uniform(random, rows * cols), bias = Uniform(random, cols);
            View yView = memory.Of(y), biasView = memory.Of(bias), gradient = memory.Of(bias);
            ops.AddBiasBackward(gradient, yView, rows, cols);
            Close.To(2e-6, memory.Read(gradient), MatMulReference.ColumnSums(Narrow(bias), Narrow(y), rows, cols), $"dBias {rows}×{cols}");
            ops.AddBiasBackward(default, yView, rows, cols);

            ops.AddBias(yView, biasView, rows, cols);
            float[] got = memory.Read(yView);
            for (int i = 0; i < got.Length; i++)
                Assert.Equal((float)y[i] + (float)bias[i % cols], got[i]);
        }
    }

    [Fact]
    public void Bias_gradient_has_the_same_bits_at_any_thread_count()
    {
        var random = new Random(4);
        double[] dy = Uniform(random, 500 * 333);
        float[]? first = null;
        for (int threads = 1; threads <= 4; threads++)
        {
            using var ops = new CpuBackend(threads);
            using var memory = new TestMemory(ops);
            View gradient = memory.Zeros(333);
            ops.AddBiasBackward(gradient, memory.Of(dy), 500, 333);
            float[] got = memory.Read(gradient);
            first ??= got;
            Assert.Equal(first, got);
        }
    }

    private static string Error(Action action) => Assert.Throws<ArgumentException>(action).Message;

    /// <summary>Runs a product on random operands and compares all of C, gaps included, with the reference over the rounded weights.</summary>
    private static void Check(IBackend ops, MatMulArgs args, DType type)
    {
        using var memory = new TestMemory(ops);
        Operands(memory, args, type, 11, out View a, out View b, out View c, out double[] wideA, out double[] wideB, out double[] wideC);
        double[] expected = MatMulReference.Product(wideC, wideA, wideB, args);
        ops.MatMul(c, a, b, args);
        Close.To(1e-5, memory.Read(c), expected, $"{args} {type}");
    }

    private static float[] Product(IBackend ops, MatMulArgs args, DType type, int seed)
    {
        using var memory = new TestMemory(ops);
        Operands(memory, args, type, seed, out View a, out View b, out View c, out _, out _, out _);
        ops.MatMul(c, a, b, args);
        return memory.Read(c);
    }

    private static void Operands(TestMemory memory, in MatMulArgs args, DType type, int seed, out View a, out View b, out View c, out double[] wideA, out double[] wideB, out double[] wideC)
    {
        // One generator per operand, so that fewer rows of A leave B as it is.
        int lengthA = MatMulReference.Length(args.TransA ? args.K : args.M, args.TransA ? args.M : args.K, args.RowStrideA, args.Batch, args.StrideA);
        int lengthB = MatMulReference.Length(args.TransB ? args.N : args.K, args.TransB ? args.K : args.N, args.RowStrideB, args.Batch, args.StrideB);
        int lengthC = MatMulReference.Length(args.M, args.N, args.RowStrideC, args.Batch, args.StrideC);
        wideA = Narrow(Uniform(new Random(seed), lengthA));
        wideC = Narrow(Uniform(new Random(seed + 2), lengthC));
        a = memory.Of(wideA);
        b = Weights(memory, Uniform(new Random(seed + 1), lengthB), type, out wideB);
        c = memory.Of(wideC);
    }

    private static View Weights(TestMemory memory, double[] values, DType type, out double[] rounded)
    {
        if (type == DType.F32)
        {
            rounded = Narrow(values);
            return memory.Of(rounded);
        }
        var bits = new ushort[values.Length];
        rounded = new double[values.Length];
        for (int i = 0; i < bits.Length; i++)
        {
            bits[i] = type == DType.F16
                ? BitConverter.HalfToUInt16Bits((Half)values[i])
                : (ushort)((BitConverter.SingleToUInt32Bits((float)values[i]) + 0x8000) >> 16);
            rounded[i] = Widen(bits[i], type);
        }
        return memory.Of(bits, type);
    }

    private static float Widen(ushort bits, DType type) =>
        type == DType.F16 ? (float)BitConverter.UInt16BitsToHalf(bits) : BitConverter.UInt32BitsToSingle((uint)bits << 16);

    private static double[] Uniform(Random random, int count)
    {
        var values = new double[count];
        for (int i = 0; i < count; i++)
            values[i] = random.NextDouble() * 2 - 1;
        return values;
    }

    private static double[] Narrow(double[] values) => Array.ConvertAll(values, v => (double)(float)v);
}
