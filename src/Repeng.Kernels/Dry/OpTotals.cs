namespace Repeng.Kernels.Dry;

/// <summary>Kinds of ops that cost alike.</summary>
public enum OpFamily
{
    /// <summary>Matrix products, the vocabulary head's included.</summary>
    MatMul,

    /// <summary>Attention over the visible pairs of queries and keys.</summary>
    Attention,

    /// <summary>RMSNorm and LayerNorm.</summary>
    Norm,

    /// <summary>Rotary embedding.</summary>
    Rope,

    /// <summary>Skew matrices, Cayley transform, matrix exponential; in double.</summary>
    Rotation,

    /// <summary>Functions of one or two variables, gated ones, biases, scaled sums.</summary>
    Elementwise,

    /// <summary>Sums over an axis.</summary>
    Reduce,

    /// <summary>Rows by index and columns of matrices, the embedding included.</summary>
    Rows,

    /// <summary>Ops on chunks of logits; their matrix products count as <see cref="MatMul"/>.</summary>
    Vocabulary,

    /// <summary>Optimiser steps.</summary>
    Optimiser,

    /// <summary>Copies, fills, uploads and downloads.</summary>
    Copy,
}

/// <summary>What the ops of a family did together.</summary>
/// <param name="Calls">Ops called.</param>
/// <param name="Flops">Multiply-adds times two, of products: matrix products, attention, rotations. 0 for other families.</param>
/// <param name="Elements">Elements that the ops worked on: results of elementwise ops, summands of sums, logits of vocabulary ops.</param>
/// <param name="Bytes">Bytes read and written if every operand crosses the memory bus once.</param>
public readonly record struct OpTotals(long Calls, double Flops, double Elements, long Bytes)
{
    /// <summary>Both together.</summary>
    public static OpTotals operator +(OpTotals a, OpTotals b) => new(a.Calls + b.Calls, a.Flops + b.Flops, a.Elements + b.Elements, a.Bytes + b.Bytes);

    /// <summary>What came after an earlier state of the same counters.</summary>
    public static OpTotals operator -(OpTotals later, OpTotals earlier) =>
        new(later.Calls - earlier.Calls, later.Flops - earlier.Flops, later.Elements - earlier.Elements, later.Bytes - earlier.Bytes);
}
