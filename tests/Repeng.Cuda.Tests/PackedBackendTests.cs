using Repeng.Kernels;
using Repeng.Testing;

namespace Repeng.Cuda.Tests;

/// <summary>Ops over packed weights of every form, as the engine calls them: the bits of the decoded matrix in fp32 on the same backend.</summary>
public sealed class PackedBackendTests
{
    public static TheoryData<string, string> Forms()
    {
        var rows = new TheoryData<string, string>();
        foreach (string backend in Backends.Names.Where(n => n != "cpu"))
            foreach (string form in PackedMatrix.Forms)
                rows.Add(backend, form);
        return rows;
    }

    [Theory, MemberData(nameof(Forms))]
    public void OpsHaveTheBitsOfTheDecodedMatrix(string backend, string form)
    {
        using IBackend b = Backends.Create(backend);
        using var memory = new TestMemory(b);
        // Columns are rounded up to whole blocks; those of the others leave a ragged tile, INT8's an odd row.
        using var w = new PackedMatrix(form, 21, form == "INT8" ? 43 : 72, 3);
        int n = w.Rows, k = w.Columns;
        View packed = w.On(memory, skewed: form != "INT8" && !form.Contains('4', StringComparison.Ordinal)), decoded = memory.Of(w.Decoded);
        View unpacked = memory.Empty(w.Decoded.Length);
        b.Unpack(unpacked, packed);
        Assert.Equal(w.Decoded, memory.Read(unpacked));

        // x·Wᵀ of few and of many rows, and dy·W; the whole, and rows of it.
        foreach ((int first, int rows) in new[] { (0, n), (5, 9) })
        {
            View part = packed.Slice((long)first * k, (long)rows * k), plain = decoded.Slice((long)first * k, (long)rows * k);
            Same(b, memory, part, plain, new MatMulArgs(1, rows, k, TransB: true));
            Same(b, memory, part, plain, new MatMulArgs(7, rows, k, TransB: true, Accumulate: true));
            Same(b, memory, part, plain, new MatMulArgs(first == 0 ? 70 : 12, rows, k, TransB: true));
            Same(b, memory, part, plain, new MatMulArgs(first == 0 ? 12 : 3, k, rows, Accumulate: first > 0));
        }

        // A table of rows.
        View ids = memory.Of([20, 0, 20, 7]), y = memory.Empty(4L * k), expected = memory.Empty(4L * k);
        foreach (float scale in new[] { 1, 0.37f })
        {
            b.EmbeddingForward(y, packed, ids, 4, k, scale);
            b.EmbeddingForward(expected, decoded, ids, 4, k, scale);
            Assert.Equal(memory.Read(expected), memory.Read(y));
        }
    }

    public static TheoryData<string, string> LongForms()
    {
        var rows = new TheoryData<string, string>();
        foreach (string backend in Backends.Names.Where(n => n != "cpu"))
            foreach (string form in new[] { "Q4_K", "Q6_K", "Q8_0", "MXFP4", "IQ2_S", "IQ1_M", "INT8" })
                rows.Add(backend, form);
        return rows;
    }

    /// <summary>Rows of several stretches of every kernel, the last one not full, that begin anywhere; matrices of several tiles of unpacking.</summary>
    [Theory, MemberData(nameof(LongForms))]
    public void LongRowsToo(string backend, string form)
    {
        using IBackend b = Backends.Create(backend);
        using var memory = new TestMemory(b);
        using (var w = new PackedMatrix(form, 19, 11 * 256, 7))
        {
            int n = w.Rows, k = w.Columns;
            View packed = w.On(memory), decoded = memory.Of(w.Decoded), unpacked = memory.Empty(w.Decoded.Length);
            b.Unpack(unpacked, packed);
            Assert.Equal(w.Decoded, memory.Read(unpacked));
            foreach (int m in new[] { 1, 2, 3, 5 })
                Same(b, memory, packed, decoded, new MatMulArgs(m, n, k, TransB: true));
            Same(b, memory, packed.Slice(k, 16L * k), decoded.Slice(k, 16L * k), new MatMulArgs(1, 16, k, TransB: true));
        }
        // Tiles of 64 columns of several pieces, and of 64 of K.
        using (var w = new PackedMatrix(form, 200, 3 * 256, 8))
        {
            View packed = w.On(memory), decoded = memory.Of(w.Decoded);
            Same(b, memory, packed, decoded, new MatMulArgs(9, w.Rows, w.Columns, TransB: true));
            Same(b, memory, packed.Slice(0, 70L * w.Columns), decoded.Slice(0, 70L * w.Columns), new MatMulArgs(9, w.Columns, 70));
        }
    }

    /// <summary>One type of each kind: what differs by type is above.</summary>
    public static TheoryData<string, string> Kinds()
    {
        var rows = new TheoryData<string, string>();
        foreach (string backend in Backends.Names.Where(n => n != "cpu"))
            foreach (string form in new[] { "NF4+DQ", "INT8", "Q4_K", "IQ2_S" })
                rows.Add(backend, form);
        return rows;
    }

    [Theory, MemberData(nameof(Kinds))]
    public void RareLayoutsAndTermsToo(string backend, string form)
    {
        using IBackend b = Backends.Create(backend);
        using var memory = new TestMemory(b);
        using var w = new PackedMatrix(form, 22, 40, 5);
        int n = w.Rows, k = w.Columns;
        View packed = w.On(memory), decoded = memory.Of(w.Decoded);
        Same(b, memory, packed, decoded, new MatMulArgs(10, n, k, TransA: true, TransB: true));
        Same(b, memory, packed, decoded, new MatMulArgs(5, 11, k - 3, TransB: true, LdB: k));
        Same(b, memory, packed, decoded, new MatMulArgs(3, 11, k, TransB: true, Batch: 2, StrideA: 3L * k, StrideB: 11L * k, StrideC: 33));
        Same(b, memory, packed, decoded, new MatMulArgs(3, 11, k, TransB: true, Accumulate: true, Batch: 2, StrideA: 3L * k, StrideB: 11L * k));
        View odd = memory.Empty(w.Decoded.Length - 13);
        b.Unpack(odd, packed.Slice(5, w.Decoded.Length - 13));
        Assert.Equal(w.Decoded[5..^8], memory.Read(odd));

        const int rows = 12, rank = 8;
        View x = memory.Of(Gpu.Random(rows * k, 1)), down = memory.Of(Gpu.Random(rank * k, 2)), u = memory.Of(Gpu.Random(n * rank, 3)), m = memory.Of(Gpu.Random(rank * rank, 4));
        View room = memory.Empty(2 * rows * rank), y = memory.Empty(rows * n), expected = memory.Empty(rows * n);
        foreach (TermSegment[] segments in new TermSegment[][] { [new(0, rows, m)], [new(1, 4, default), new(7, 5, m)] })
        {
            b.MatMulTerm(y, x, packed, down, u, segments, room, new TermArgs(rows, n, k, rank));
            b.MatMulTerm(expected, x, decoded, down, u, segments, room, new TermArgs(rows, n, k, rank));
            Assert.Equal(memory.Read(expected), memory.Read(y));
        }
    }

    private static void Same(IBackend b, TestMemory memory, View packed, View decoded, MatMulArgs args)
    {
        int a = args.M * args.K * args.Batch, c = args.M * args.N * args.Batch;
        float[] before = Gpu.Random(c, 21);
        View x = memory.Of(Gpu.Random(a, 22)), found = memory.Of(before), expected = memory.Of(before);
        b.MatMul(found, x, packed, args);
        // Packed batches are one product after the other.
        for (int i = 0; i < args.Batch; i++)
            b.MatMul(expected.Slice(i * args.StrideC, (long)args.M * args.N), x.Slice(i * args.StrideA, (long)args.M * args.K), decoded.Slice(i * args.StrideB, decoded.Length - (i * args.StrideB)), args with { Batch = 1 });
        Assert.True(memory.Read(expected).AsSpan().SequenceEqual(memory.Read(found)), $"{args} over {packed.Packing}: bits differ from those of the decoded matrix");
    }
}
