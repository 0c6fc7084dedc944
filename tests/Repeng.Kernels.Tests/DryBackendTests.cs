using System.Reflection;
using System.Runtime.InteropServices;
using Repeng.Kernels.Dry;
using Repeng.Testing;
using Xunit;

namespace Repeng.Kernels.Tests;

/// <summary>What the backend without arithmetic counts, against counts made here by other means.</summary>
public sealed class DryBackendTests
{
    public static TheoryData<string> Ops() => [.. OpMethods().Select(m => m.Name)];

    public static TheoryData<int, int, int, int, int, int> AttentionCases() => new()
    {
        { 1, 7, 7, 0, 4, 2 }, { 3, 7, 7, 0, 4, 4 }, { 2, 9, 9, 3, 6, 2 }, { 2, 1, 20, 0, 4, 1 }, { 2, 5, 20, 6, 2, 2 }, { 1, 5, 5, 100, 2, 1 },
    };

    [Fact]
    public void ProductsCountTwoFlopsForEachTriple()
    {
        using DryBackend dry = new();
        using TestMemory memory = new(dry);
        View a = memory.Zeros(6 * 5), b = memory.Zeros(5 * 4), half = memory.Of(new ushort[5 * 4], DType.BF16), c = memory.Zeros(6 * 4);
        dry.Reset();
        dry.MatMul(c, a, b, new MatMulArgs(6, 4, 5));
        Assert.Equal(new OpTotals(1, 2 * 6 * 4 * 5, 24, 4 * (30 + 20 + 24)), dry[OpFamily.MatMul]);
        dry.MatMul(c, a, half, new MatMulArgs(6, 4, 5, TransB: true, Accumulate: true));
        Assert.Equal(new OpTotals(2, 2 * 2 * 6 * 4 * 5, 48, 4 * (30 + 20 + 24) + (4 * 30) + (2 * 20) + (2 * 4 * 24)), dry[OpFamily.MatMul]);
        dry.Reset();
        // Three products that share B.
        dry.MatMul(memory.Zeros(72), memory.Zeros(90), b, new MatMulArgs(6, 4, 5, Batch: 3, StrideA: 30, StrideC: 24));
        Assert.Equal(3 * 2 * 6 * 4 * 5, dry.Flops);
        Assert.Equal(4 * (90 + 20 + 72), dry[OpFamily.MatMul].Bytes);
    }

    [Fact]
    public void TheTallyTakesTheLongerOfOperationsAndBytesOfEachOp()
    {
        using DryBackend dry = new();
        using TestMemory memory = new(dry);
        View a = memory.Zeros(600), c = memory.Zeros(40000);
        dry.Reset();
        for (int i = 0; i < 3; i++)
            dry.MatMul(c, a, a, new MatMulArgs(200, 200, 3));
        dry.Unary(c, c, 40000, UnaryOp.Exp);
        dry.CayleyForward(a, a, 10, 2);
        double flops = dry.Flops, bytes = dry.Bytes;
        OpTally before = dry.TakeTally();
        dry.Fill(c, 0);
        OpCost product = new(OpFamily.MatMul, 2 * 200 * 200 * 3, 4 * (600 + 600 + 40000), 200, 200, 3);
        Assert.Equal(3, before.Ops[product]);
        Assert.Equal(5, before.Count);
        Assert.Equal(flops, before.Flops, 1e-9);
        Assert.Equal(8.0 * 40000, before.OtherBytes);
        // At 1 FLOP/s the operations decide, the rotation's twice; at 1 byte/s the bytes.
        Assert.Equal((3 * product.Flops) + (2 * 8.0 / 3 * 2000), before.Seconds(1, 1e30), 1e-6);
        Assert.Equal(bytes, before.Seconds(1e30, 1), 1e-6);
        // The three products are bound by their operations, the others by bytes.
        Assert.Equal((3 * product.Flops) + (8.0 * 40000 * 0.1) + (2 * 8.0 / 3 * 2000) + (5 * 7), before.Seconds(1, 10, 7), 1e-6);
        var both = new OpTally();
        both.Add(before, 2);
        both.Add(dry.TakeTally());
        Assert.Equal(6, both.Ops[product]);
        Assert.Equal(11, both.Count);
        dry.Fill(c, 0);
        dry.Reset();
        Assert.Equal(0, dry.TakeTally().Count);
    }

    [Theory]
    [MemberData(nameof(AttentionCases))]
    public void AttentionCountsTheVisiblePairs(int batch, int queries, int keys, int window, int heads, int kvHeads)
    {
        const int HeadDim = 8;
        using DryBackend dry = new();
        using TestMemory memory = new(dry);
        int[] firstKey = [.. Enumerable.Range(0, batch)];
        AttentionArgs args = new(batch, queries, keys, heads, kvHeads, HeadDim, 1, Window: window);
        double pairs = 0;
        for (int sequence = 0; sequence < batch; sequence++)
            for (int i = keys - queries; i < keys; i++)
                for (int j = 0; j < keys; j++)
                    if (j >= firstKey[sequence] && j <= i && (window == 0 || j > i - window))
                        pairs += heads;
        View v = memory.Zeros(1), first = memory.Of(firstKey);
        dry.Reset();
        dry.AttentionForward(v, v, v, v, v, first, args);
        Assert.Equal(4 * HeadDim * pairs, dry[OpFamily.Attention].Flops);
        dry.AttentionBackward(v, v, v, v, v, v, v, v, v, v, first, args);
        Assert.Equal((4 + 10) * HeadDim * pairs, dry[OpFamily.Attention].Flops);
        Assert.Equal(2, dry.Total().Calls);
    }

    [Fact]
    public void RotationsCountCubes()
    {
        using DryBackend dry = new();
        View none = default, some = new(64, 300, DType.F32);
        dry.CayleyForward(some, some, 10, 3);
        Assert.Equal(8.0 / 3 * 1000 * 3, dry.Flops, 1e-9);
        dry.CayleyBackward(some, some, some, 10, 3);
        Assert.Equal((8.0 / 3 * 3000) + (4 * 3000), dry.Flops, 1e-9);
        dry.CayleyBackward(none, some, some, 10, 3);
        Assert.Equal(2, dry.Total().Calls);
    }

    [Fact]
    public void BytesAreThoseOfTheOperands()
    {
        using DryBackend dry = new();
        View v = new(64, 1000, DType.F32);
        long Bytes(Action op)
        {
            long before = dry.Bytes;
            op();
            return dry.Bytes - before;
        }
        Assert.Equal(4 * 200, Bytes(() => dry.Unary(v, v, 100, UnaryOp.Exp)));
        Assert.Equal(4 * (100 + 100 + 20), Bytes(() => dry.Binary(v, v, v, 5, 20, BinaryOp.Add, Broadcast.OverRows)));
        Assert.Equal(4 * (100 + 100 + 5), Bytes(() => dry.Binary(v, v, v, 5, 20, BinaryOp.Add, Broadcast.OverCols)));
        Assert.Equal(4 * 300, Bytes(() => dry.GatedForward(v, v, v, 100, UnaryOp.Silu)));
        Assert.Equal(4 * 700, Bytes(() => dry.AdamW(v, v, v, v, 100, default)));
        Assert.Equal(4 * (120 + 10), Bytes(() => dry.ReduceSum(v, v, 2, 12, 5, accumulate: false)));
        Assert.Equal((4 * 60) + (2 * 60), Bytes(() => dry.EmbeddingForward(v, new View(64, 1000, DType.F16), v, 3, 20, 1)));
        Assert.Equal(4 * 2000, Bytes(() => dry.Copy(v, v)));
    }

    [Fact]
    public void ATermIsCountedAsItsProducts()
    {
        using DryBackend dry = new();
        View v = new(64, 10_000, DType.F32);
        dry.MatMul(v, v, v, new MatMulArgs(5, 40, 30));
        dry.MatMul(v, v, v, new MatMulArgs(3, 8, 30));
        dry.MatMul(v, v, v, new MatMulArgs(3, 8, 8));
        dry.MatMul(v, v, v, new MatMulArgs(3, 40, 8));
        double expected = dry.Flops;
        dry.Reset();
        ((IBackend)dry).MatMulTerm(v, v, v, v, v, [new TermSegment(1, 3, v)], v, new TermArgs(5, 40, 30, 8));
        Assert.Equal(expected, dry.Flops);
    }

    [Theory]
    [MemberData(nameof(Ops))]
    public void EveryOpIsCountedAndTouchesNothing(string name)
    {
        using DryBackend dry = new();
        using TestMemory memory = new(dry);
        MethodInfo op = OpMethods().Single(m => m.Name == name);
        View[] operands = [.. op.GetParameters().Where(p => p.ParameterType == typeof(View)).Select(_ => memory.Zeros(64))];
        int next = 0;
        object?[] arguments = [.. op.GetParameters().Select(p => Argument(p, operands, ref next))];
        dry.Reset();
        op.Invoke(dry, arguments);
        Assert.True(dry.Total().Calls > 0, $"{name} was not counted");
        Assert.True(dry.Bytes > 0 && dry.Total().Elements > 0, $"{name} counted {dry.Total()}");
        foreach (View v in operands)
            Assert.All(memory.Read(v), value => Assert.Equal(0, value));
    }

    [Fact]
    public void TotalsAreTheSumOfTheFamiliesAndDifferences()
    {
        using DryBackend dry = new();
        View v = new(64, 100, DType.F32);
        dry.MatMul(v, v, v, new MatMulArgs(4, 5, 5));
        OpTotals before = dry.Total();
        dry.Unary(v, v, 20, UnaryOp.Exp);
        dry.LogSumExpChunk(v, v, v, 4, 5);
        Assert.Equal(new OpTotals(2, 0, 40, (4 * 40) + (4 * (20 + 16))), dry.Total() - before);
        Assert.Equal(new OpTotals(1, 0, 20, 160), dry[OpFamily.Elementwise]);
        Assert.Equal(200, dry.Flops);
        dry.Reset();
        Assert.Equal(default, dry.Total());
    }

    [Fact]
    public void MemoryIsCountedZeroedAndLeftUntouched()
    {
        using DryBackend dry = new();
        const long Large = 3L << 30;
        long before = Environment.WorkingSet;
        nint small = dry.Allocate(100), large = dry.Allocate(Large);
        Assert.Equal(0, small & 63);
        Assert.Equal(0, large & 63);
        Assert.Equal(Large + 100, dry.AllocatedBytes);
        View v = new(large, Large / 4, DType.F32);
        dry.Fill(v, 1);
        dry.Unary(v, v, v.Length, UnaryOp.Exp);
        Assert.Equal(0, v.Slice(v.Length - 1, 1).HostFloats[0]);
        // Other tests run beside this one: a third is far above what they take and far below what touching would.
        Assert.True(Environment.WorkingSet - before < Large / 3, "the pages of a dry allocation were touched");
        dry.Free(large, Large);
        Assert.Equal(100, dry.AllocatedBytes);
        Assert.Equal(Large + 100, dry.PeakAllocatedBytes);
        dry.Reset();
        Assert.Equal(100, dry.PeakAllocatedBytes);
        dry.Free(small, 100);
    }

    [Fact]
    public void SmallUploadsAreReadBackAndLargeOnesOnlyCounted()
    {
        using DryBackend dry = new();
        using TestMemory memory = new(dry);
        View ids = memory.Of([3, 1, 4]);
        int[] back = new int[3];
        dry.Download(MemoryMarshal.AsBytes(back.AsSpan()), ids);
        Assert.Equal([3, 1, 4], back);
        float[] weights = new float[(DryBackend.CopiedUploadBytes / 4) + 1];
        Array.Fill(weights, 1);
        dry.Reset();
        Assert.All(memory.Read(memory.Of(weights)), value => Assert.Equal(0, value));
        Assert.Equal(4L * weights.Length * 4, dry[OpFamily.Copy].Bytes);
        Assert.Throws<ArgumentException>(() => dry.Upload(ids, new byte[5]));
    }

    private static IEnumerable<MethodInfo> OpMethods()
    {
        // Sequences of ops take spans, which reflection cannot pass; routing writes its choice. They have tests of their own. LayerType is a question.
        string[] others = [nameof(IBackend.Allocate), nameof(IBackend.Free), nameof(IBackend.Upload), nameof(IBackend.Download), nameof(IBackend.MatMulTerm), nameof(IBackend.MatMulGroups), nameof(IBackend.CopySeveral), nameof(IBackend.AdamWSeveral), nameof(IBackend.RouteForward), nameof(IBackend.LayerType)];
        return typeof(IBackend).GetMethods().Where(m => !m.IsSpecialName && !others.Contains(m.Name));
    }

    private static object? Argument(ParameterInfo parameter, View[] operands, ref int next)
    {
        Type type = parameter.ParameterType.IsByRef ? parameter.ParameterType.GetElementType()! : parameter.ParameterType;
        if (type == typeof(View) && parameter.Name == "firstKey")
            return new View(operands[next++].Address, 64, DType.I32);
        if (type == typeof(View))
            return operands[next++];
        if (type == typeof(int))
            return 4;
        if (type == typeof(long))
            return 4L;
        if (type == typeof(float))
            return 0.5f;
        if (type == typeof(TermArgs))
            return new TermArgs(2, 3, 4, 2);
        if (type == typeof(MatMulArgs))
            return new MatMulArgs(4, 4, 4);
        if (type == typeof(NormRopeArgs))
            return new NormRopeArgs(4, 2, 4, 4, false, 1e-6f, 0);
        if (type == typeof(RouteArgs))
            return new RouteArgs(4, 4, 2, true);
        if (type == typeof(AttentionArgs))
            return new AttentionArgs(1, 4, 4, 2, 2, 2, 1);
        return Activator.CreateInstance(type);
    }
}
