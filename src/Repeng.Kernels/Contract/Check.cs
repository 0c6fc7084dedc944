using System.Diagnostics.CodeAnalysis;
using System.Runtime.CompilerServices;

namespace Repeng.Kernels;

/// <summary>Checks of sizes and index values that every backend makes; the messages name the op, the operand and the numbers.</summary>
internal static unsafe class Check
{
    private const int LongestSequence = 1 << 24;

    /// <summary>Throws for a negative size.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static void Size(long value, string op, string name)
    {
        if (value < 0)
            ThrowSize(value, op, name);
    }

    /// <summary>Throws where an operand that may be absent is there and holds fewer numbers than needed.</summary>
    public static void Optional(View view, long elements, string op, string operand)
    {
        if (!view.IsEmpty)
            view.Require(elements, DType.F32, op, operand);
    }

    /// <summary>Throws for sizes of <see cref="IBackend.MatMul"/> that are negative, and for products that would overwrite each other.</summary>
    public static void Product(in MatMulArgs a)
    {
        if (a.M < 0 || a.N < 0 || a.K < 0 || a.Batch < 0 || a.StrideA < 0 || a.StrideB < 0 || a.StrideC < 0)
            throw new ArgumentException($"MatMul: negative size: M {a.M}, N {a.N}, K {a.K}, batch {a.Batch}, strides {a.StrideA}, {a.StrideB}, {a.StrideC}");
        if (a is { M: > 0, N: > 0, Batch: > 1, StrideC: 0, Accumulate: false })
            throw new ArgumentException($"MatMul: {a.Batch} products into one C (stride 0) would overwrite each other; set StrideC, or Accumulate to sum them");
    }

    /// <summary>Throws for sizes of attention that do not fit together; else the elements of queries and of keys, and the rows of log-sum-exps.</summary>
    public static (long Queries, long Keys, long Rows) Attention(string op, in AttentionArgs a)
    {
        if (a.Batch < 0 || a.QueryLength < 0 || a.Heads < 1 || a.KvHeads < 1 || a.HeadDim < 1 || a.Window < 0 || !(a.SoftCap >= 0))
            throw new ArgumentException($"{op}: sizes out of range: batch {a.Batch}, {a.QueryLength} queries, {a.Heads} heads on {a.KvHeads} key heads of {a.HeadDim}, window {a.Window}, soft cap {a.SoftCap}");
        if (a.Heads % a.KvHeads != 0)
            throw new ArgumentException($"{op}: {a.Heads} query heads cannot share {a.KvHeads} key heads evenly");
        if (a.QueryLength > a.KeyLength || a.KeyLength > LongestSequence)
            throw new ArgumentException($"{op}: {a.QueryLength} queries end at key {a.KeyLength}; needs QueryLength ≤ KeyLength ≤ {LongestSequence}");
        if (a.KeyCapacity != 0 && a.KeyCapacity < a.KeyLength)
            throw new ArgumentException($"{op}: KeyCapacity {a.KeyCapacity} is below KeyLength {a.KeyLength}");
        long rows = (long)a.Batch * a.QueryLength * a.Heads;
        // The last sequence's keys need not be followed by the rest of its capacity.
        long tokens = a.Batch == 0 ? 0 : (a.Batch - 1L) * a.KeyStride + a.KeyLength;
        return (rows * a.HeadDim, tokens * a.KvHeads * a.HeadDim, rows);
    }

    /// <summary>Operands of <see cref="IBackend.AttentionBackward"/>, whose number of query elements it gives.</summary>
    public static long AttentionBackward(View dq, View dk, View dv, View dO, View o, View lse, View delta, View q, View k, View v, View firstKey, in AttentionArgs args)
    {
        const string Op = nameof(AttentionBackward);
        (long queries, long keys, long rows) = Attention(Op, args);
        Optional(dq, queries, Op, nameof(dq));
        Optional(dk, keys, Op, nameof(dk));
        Optional(dv, keys, Op, nameof(dv));
        delta.Require(rows, DType.F32, Op, nameof(delta));
        dO.Require(queries, DType.F32, Op, nameof(dO));
        AttentionOperands(Op, o, lse, q, k, v, firstKey, (queries, keys, rows), args);
        return queries;
    }

    /// <summary>Operands of <see cref="IBackend.AttentionForward"/>, whose number of query elements it gives.</summary>
    public static long AttentionForward(View o, View lse, View q, View k, View v, View firstKey, in AttentionArgs args)
    {
        const string Op = nameof(AttentionForward);
        (long, long, long) sizes = Attention(Op, args);
        AttentionOperands(Op, o, lse, q, k, v, firstKey, sizes, args);
        return sizes.Item1;
    }

    /// <summary>Sizes and operands of <see cref="IBackend.Rope"/> but for the positions' values.</summary>
    public static void Rope(View y, View x, View cos, View sin, View positions, int rows, int heads, int headDim, int rotaryDim, bool accumulate)
    {
        const string Op = nameof(Rope);
        if (rows < 0 || heads < 1 || headDim < 1)
            throw new ArgumentException($"{Op}: sizes out of range: {rows} rows, {heads} heads of {headDim}");
        if (rotaryDim < 0 || rotaryDim > headDim || rotaryDim % 2 != 0)
            throw new ArgumentException($"{Op}: rotaryDim {rotaryDim} must be even and within 0 … headDim = {headDim}");
        long size = (long)rows * heads * headDim;
        x.Require(size, DType.F32, Op, nameof(x));
        y.Require(size, DType.F32, Op, nameof(y));
        positions.Require(rows, DType.I32, Op, nameof(positions));
        // At least the table's first position; which ones are read say the positions.
        cos.Require(rows == 0 ? 0 : rotaryDim / 2, DType.F32, Op, nameof(cos));
        sin.Require(rows == 0 ? 0 : rotaryDim / 2, DType.F32, Op, nameof(sin));
        if (accumulate && rows > 0 && y.Address == x.Address)
            throw new ArgumentException($"{Op}: in place and accumulate exclude each other");
    }

    private static void AttentionOperands(string op, View o, View lse, View q, View k, View v, View firstKey, (long Queries, long Keys, long Rows) sizes, in AttentionArgs args)
    {
        o.Require(sizes.Queries, DType.F32, op, nameof(o));
        lse.Require(sizes.Rows, DType.F32, op, nameof(lse));
        q.Require(sizes.Queries, DType.F32, op, nameof(q));
        k.Require(sizes.Keys, DType.F32, op, nameof(k));
        v.Require(sizes.Keys, DType.F32, op, nameof(v));
        firstKey.Require(args.Batch, DType.I32, op, nameof(firstKey));
    }

    /// <summary>Throws where one of the first count values does not lie in [0, limit).</summary>
    public static void Indices(int* values, int count, long limit, string op, string operand)
    {
        for (int i = 0; i < count; i++)
            if ((uint)values[i] >= limit)
                ThrowIndex(values[i], i, limit, op, operand);
    }

    [DoesNotReturn]
    private static void ThrowSize(long value, string op, string name) => throw new ArgumentException($"{op}: {name} is {value}, it cannot be negative");

    [DoesNotReturn]
    private static void ThrowIndex(int value, int at, long limit, string op, string operand) =>
        throw new ArgumentException($"{op}: {operand}[{at}] is {value}, valid are 0 … {limit - 1}");

    /// <summary>The exception for an op that a kernel does not have.</summary>
    public static ArgumentException Unknown<T>(T value, string op) where T : struct, Enum => new($"{op}: {typeof(T).Name} {value} is not supported here");
}
