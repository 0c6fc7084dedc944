namespace Repeng.Kernels;

/// <summary>
/// Shape of a matrix product C = A·B (+ C when <paramref name="Accumulate"/>): op(A) is [M, K], op(B) is [K, N], C is [M, N].
/// With TransA, A is stored [K, M]; with TransB, B is stored [N, K] (the layout of a linear layer's weight).
/// Leading dimensions are row strides in elements; 0 means tightly packed.
/// Batch &gt; 1 repeats the product at the given strides (elements; 0 shares the operand).
/// </summary>
public readonly record struct MatMulArgs(
    int M, int N, int K,
    bool TransA = false, bool TransB = false,
    bool Accumulate = false,
    int LdA = 0, int LdB = 0, int LdC = 0,
    int Batch = 1, long StrideA = 0, long StrideB = 0, long StrideC = 0)
{
    /// <summary>Row stride of A as stored.</summary>
    public int RowStrideA => LdA != 0 ? LdA : TransA ? M : K;

    /// <summary>Row stride of B as stored.</summary>
    public int RowStrideB => LdB != 0 ? LdB : TransB ? K : N;

    /// <summary>Row stride of C.</summary>
    public int RowStrideC => LdC != 0 ? LdC : N;

    /// <summary>Multiply-adds times two.</summary>
    public double Flops => 2.0 * M * N * K * Batch;
}

public partial interface IBackend
{
    /// <summary>C = op(A)·op(B), or C += op(A)·op(B). A and C are fp32; B is fp32, fp16 or bf16.</summary>
    void MatMul(View c, View a, View b, in MatMulArgs args);

    /// <summary>Two products that do not depend on each other, which a backend may run side by side; the same bits as two calls of <see cref="MatMul"/>.</summary>
    void MatMulPair(View c1, View a1, View b1, in MatMulArgs args1, View c2, View a2, View b2, in MatMulArgs args2)
    {
        MatMul(c1, a1, b1, args1);
        MatMul(c2, a2, b2, args2);
    }

    /// <summary>y[rows, cols] += bias[cols], in place.</summary>
    void AddBias(View y, View bias, int rows, int cols);

    /// <summary>dBias[cols] += Σ_rows dy[rows, cols].</summary>
    void AddBiasBackward(View dBias, View dy, int rows, int cols);
}
