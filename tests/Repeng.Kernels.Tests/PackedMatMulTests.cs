using Repeng.Kernels.Cpu;
using Repeng.Kernels.Quantised;
using Repeng.Testing;

namespace Repeng.Kernels.Tests;

/// <summary>Products, terms and look-ups over quantised weights: the bits of the decoded matrix in fp32, for every form.</summary>
public sealed class PackedMatMulTests
{
    // Rows of x on the thin, the adding and the blocked path; outputs and inputs off every tile; inputs are rounded up to whole blocks.
    private static readonly (int M, int N, int K)[] s_shapes =
    [
        (1, 1, 1), (1, 9, 70), (2, 40, 33), (5, 21, 160), (8, 65, 1300), (9, 33, 31), (16, 70, 320), (17, 300, 96), (40, 130, 700), (150, 50, 160), (200, 7, 96), (64, 1024, 256),
    ];

    public static TheoryData<string> Forms() => new(PackedMatrix.Forms);

    public static TheoryData<string, int> Widths()
    {
        var rows = new TheoryData<string, int>();
        foreach (string form in PackedMatrix.Forms)
            foreach (GemmWidth width in Enum.GetValues<GemmWidth>())
                rows.Add(form, (int)width);
        return rows;
    }

    [Theory, MemberData(nameof(Forms))]
    public void Products_have_the_bits_of_the_decoded_matrix(string form)
    {
        using var ops = new CpuBackend(2);
        foreach ((int m, int n, int k) in s_shapes)
            CheckShape(ops, form, m, n, k);
    }

    [Theory, MemberData(nameof(Widths))]
    public void At_every_simd_width(string form, int width)
    {
        using var ops = new CpuBackend(2) { MatMulWidth = (GemmWidth)width };
        foreach ((int m, int n, int k) in new[] { (1, 9, 70), (3, 21, 160), (5, 21, 160), (8, 65, 1300), (13, 33, 31), (49, 70, 390) })
            CheckShape(ops, form, m, n, k);
    }

    [Theory, MemberData(nameof(Forms))]
    public void Bits_do_not_depend_on_threads(string form)
    {
        foreach ((int m, int n, int k, bool trans) in new[] { (1, 900, 500, true), (6, 300, 800, true), (70, 300, 800, true), (3, 900, 500, false), (90, 500, 300, false) })
        {
            float[]? first = null;
            foreach (int threads in new[] { 1, 2, 5 })
            {
                using var ops = new CpuBackend(threads);
                using var memory = new TestMemory(ops);
                using var w = new PackedMatrix(form, trans ? n : k, trans ? k : n, 3);
                (int wide, int deep) = trans ? (n, w.Columns) : (w.Columns, k);
                View c = memory.Empty((long)m * wide);
                ops.MatMul(c, memory.Of(Values(m * deep, 4)), w.View, new MatMulArgs(m, wide, deep, TransB: trans));
                float[] got = memory.Read(c);
                first ??= got;
                Assert.Equal(first, got);
            }
        }
    }

    [Theory, MemberData(nameof(Forms))]
    public void Rows_of_a_matrix_are_an_operand(string form)
    {
        // A chunk of a vocabulary, an expert of a stack, a part of a fused projection.
        using var ops = new CpuBackend(2);
        using var memory = new TestMemory(ops);
        using var w = new PackedMatrix(form, 90, 160, 5);
        int k = w.Columns;
        View plain = memory.Of(w.Decoded);
        foreach ((int first, int rows) in new[] { (0, 90), (7, 40), (33, 1), (89, 1), (50, 40) })
            foreach (int m in new[] { 1, 7, 30 })
            {
                Same(ops, memory, m, rows, k, w.View.Slice((long)first * k, (long)rows * k), plain.Slice((long)first * k, (long)rows * k), true);
                Same(ops, memory, m, k, rows, w.View.Slice((long)first * k, (long)rows * k), plain.Slice((long)first * k, (long)rows * k), false);
            }
        // A batch of products over stacked matrices.
        View x = memory.Of(Values(3 * 11 * k, 6)), packed = memory.Empty(3 * 11 * 30), expected = memory.Empty(3 * 11 * 30);
        var batch = new MatMulArgs(11, 30, k, TransB: true, Batch: 3, StrideA: 11L * k, StrideB: 30L * k, StrideC: 11 * 30);
        ops.MatMul(packed, x, w.View, batch);
        ops.MatMul(expected, x, plain, batch);
        Assert.Equal(memory.Read(expected), memory.Read(packed));
    }

    [Theory, MemberData(nameof(Forms))]
    public void A_low_rank_term_has_the_bits_of_the_decoded_matrix(string form)
    {
        using var ops = new CpuBackend(3);
        foreach ((int rows, int n, int k, int r) in new[] { (1, 300, 70, 20), (5, 70, 33, 3), (8, 640, 100, 70), (30, 90, 41, 6) })
        {
            using var memory = new TestMemory(ops);
            using var w = new PackedMatrix(form, n, k, 7);
            int inputs = w.Columns;
            View x = memory.Of(Values(rows * inputs, 1)), down = memory.Of(Values(r * inputs, 2)), u = memory.Of(Values(n * r, 3)), m = memory.Of(Values(r * r, 4));
            View room = memory.Empty(2L * rows * r), packed = memory.Empty((long)rows * n), expected = memory.Empty((long)rows * n);
            TermSegment[] segments = rows == 1 ? [new(0, 1, m)] : [new(0, 1, m), new(1, rows - 2, default)];
            ops.MatMulTerm(packed, x, w.View, down, u, segments, room, new TermArgs(rows, n, inputs, r));
            ops.MatMulTerm(expected, x, memory.Of(w.Decoded), down, u, segments, room, new TermArgs(rows, n, inputs, r));
            Assert.Equal(memory.Read(expected), memory.Read(packed));
        }
    }

    [Theory, MemberData(nameof(Forms))]
    public void Rows_of_a_table_are_looked_up(string form)
    {
        using var ops = new CpuBackend(2);
        using var memory = new TestMemory(ops);
        using var w = new PackedMatrix(form, 50, 131, 9);
        int[] ids = [0, 49, 3, 3, 17];
        View table = memory.Of(w.Decoded), y = memory.Empty(ids.Length * w.Columns), expected = memory.Empty(ids.Length * w.Columns);
        foreach (float scale in new[] { 1, 0.37f })
        {
            ops.EmbeddingForward(y, w.View, memory.Of(ids), ids.Length, w.Columns, scale);
            ops.EmbeddingForward(expected, table, memory.Of(ids), ids.Length, w.Columns, scale);
            Assert.Equal(memory.Read(expected), memory.Read(y));
        }
        Assert.Throws<ArgumentException>(() => ops.EmbeddingForward(y, w.View, memory.Of([50]), 1, w.Columns, 1));
    }

    [Theory, MemberData(nameof(Forms))]
    public void Any_run_of_elements_decodes_alone(string form)
    {
        using var w = new PackedMatrix(form, 9, 77, 11);
        foreach ((int first, int count) in new[] { (0, w.Decoded.Length), (1, 1), (2, 30), (31, 34), (63, 130), (255, 3), (w.Decoded.Length - 1, 1), (5, 0) })
        {
            var part = new float[count];
            w.Packing.Decode(first, part);
            Assert.Equal(w.Decoded[first..(first + count)], part);
        }
        Assert.Throws<ArgumentOutOfRangeException>(() => w.Packing.Decode(w.Decoded.Length, new float[1]));
    }

    [Theory, MemberData(nameof(Forms))]
    public void Allocates_nothing(string form)
    {
        foreach (int threads in new[] { 1, 3 })
        {
            using var ops = new CpuBackend(threads);
            using var memory = new TestMemory(ops);
            using var w = new PackedMatrix(form, 256, 256, 13);
            View a = memory.Zeros(200 * 256), c = memory.Zeros(200 * 256), ids = memory.Of([1, 2, 3]);
            int[] rows = [1, 4, 200];
            Allocation.AssertNone(() =>
            {
                foreach (int m in rows)
                {
                    ops.MatMul(c, a, w.View, new MatMulArgs(m, 256, 256, TransB: true));
                    ops.MatMul(c, a, w.View, new MatMulArgs(m, 256, 256));
                }
                ops.EmbeddingForward(c, w.View, ids, 3, 256, 1);
            });
        }
    }

    [Fact]
    public void Only_weights_may_be_packed()
    {
        using var ops = new CpuBackend(1);
        using var memory = new TestMemory(ops);
        using var w = new PackedMatrix("NF4", 4, 64, 15);
        View six = memory.Zeros(600);
        Assert.Contains("A has 256 × Packed, needs", Error(() => ops.MatMul(six, w.View, six, new MatMulArgs(2, 2, 64))), StringComparison.Ordinal);
        Assert.Contains("C has 256 × Packed, needs", Error(() => ops.MatMul(w.View, six, six, new MatMulArgs(2, 2, 64))), StringComparison.Ordinal);
        Assert.Contains("B has 256 × Packed, needs 320", Error(() => ops.MatMul(six, six, w.View, new MatMulArgs(2, 5, 64, TransB: true))), StringComparison.Ordinal);
        Assert.Throws<ArgumentOutOfRangeException>(() => w.View.Slice(200, 57));
        Assert.Throws<InvalidOperationException>(() => w.View.HostFloats.Length);

        static string Error(Action act) => Assert.Throws<ArgumentException>(act).Message;
    }

    private static void CheckShape(CpuBackend ops, string form, int m, int n, int k)
    {
        using var memory = new TestMemory(ops);
        // x·Wᵀ with W [n, k], and dy·W with W [k, n].
        using PackedMatrix forward = new(form, n, k, 1), backward = new(form, k, n, 2);
        foreach (bool accumulate in new[] { false, true })
        {
            Same(ops, memory, m, n, forward.Columns, forward.View, memory.Of(forward.Decoded), true, accumulate);
            Same(ops, memory, m, backward.Columns, k, backward.View, memory.Of(backward.Decoded), false, accumulate);
        }
        Same(ops, memory, m, n, forward.Columns, forward.View, memory.Of(forward.Decoded), true, false, transA: true);
    }

    private static void Same(CpuBackend ops, TestMemory memory, int m, int n, int k, View packed, View decoded, bool transB, bool accumulate = false, bool transA = false)
    {
        float[] before = Values(m * n, 21);
        View a = memory.Of(Values(m * k, 22)), found = memory.Of(before), expected = memory.Of(before);
        var args = new MatMulArgs(m, n, k, transA, transB, accumulate);
        ops.MatMul(found, a, packed, args);
        ops.MatMul(expected, a, decoded, args);
        Assert.True(memory.Read(expected).AsSpan().SequenceEqual(memory.Read(found)), $"{args} over {packed.Packing}: bits differ from those of the decoded matrix");
    }

    private static float[] Values(int count, ulong stream) => [.. Enumerable.Range(0, count).Select(i => (float)Philox.Normal(7, stream, (ulong)i))];
}
