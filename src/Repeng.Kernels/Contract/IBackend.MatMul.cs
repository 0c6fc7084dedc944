namespace Repeng.Kernels;

/// <summary>
/// Shape of a matrix product C = A·B (+ C when <paramref name="Accumulate"/>): op(A) is [M, K], op(B) is [K, N], C is [M, N].
/// With TransA, A is stored [K, M]; with TransB, B is stored [N, K] (the layout of a linear layer's weight).
/// Leading dimensions are row strides in elements; 0 means tightly packed.
/// Batch &gt; 1 repeats the product at the given strides (elements; 0 shares the operand).
/// Autocast says that the product is one of a layer (a linear layer, a low-rank term or low-rank adapter on one, the head; forward and backward), which a backend that was
/// opened at a lower precision may round the operands of; losses, rotations and other algebra of parameters are none.
/// </summary>
public readonly record struct MatMulArgs(
    int M, int N, int K,
    bool TransA = false, bool TransB = false,
    bool Accumulate = false,
    int LdA = 0, int LdB = 0, int LdC = 0,
    int Batch = 1, long StrideA = 0, long StrideB = 0, long StrideC = 0,
    bool Autocast = false)
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

/// <summary>Sizes of <see cref="IBackend.MatMulTerm"/>.</summary>
public readonly record struct TermArgs(int Rows, int Outputs, int Inputs, int Rank)
{
    /// <summary><see cref="IBackend.MatMulTerm"/> by single products: what it computes, and the way of a backend that has no better one.</summary>
    public static void OneByOne(IBackend backend, View y, View x, View w, View down, View u, ReadOnlySpan<TermSegment> segments, View room, in TermArgs args)
    {
        (int rows, int outputs, int inputs, int r) = args;
        backend.MatMul(y, x, w, new MatMulArgs(rows, outputs, inputs, TransB: true, Autocast: true));
        foreach (TermSegment s in segments)
        {
            View z = room.Slice((long)s.Start * r, (long)s.Count * r), mixed = z;
            backend.MatMul(z, x.Slice((long)s.Start * inputs, (long)s.Count * inputs), down, new MatMulArgs(s.Count, r, inputs, TransB: true, Autocast: true));
            if (!s.M.IsEmpty)
            {
                mixed = room.Slice((long)(rows + s.Start) * r, (long)s.Count * r);
                backend.MatMul(mixed, z, s.M, new MatMulArgs(s.Count, r, r, Autocast: true));
            }
            backend.MatMul(y.Slice((long)s.Start * outputs, (long)s.Count * outputs), mixed, u, new MatMulArgs(s.Count, outputs, r, TransB: true, Accumulate: true, Autocast: true));
        }
    }

    /// <summary><see cref="IBackend.LinearTerm"/> by single products: the way of a backend that has no better one.</summary>
    public static void Forward(IBackend backend, View y, View z, View mixed, View x, View w, View bias, View v, View m, View u, in TermArgs args)
    {
        (int rows, int outputs, int inputs, int r) = args;
        backend.MatMul(y, x, w, new MatMulArgs(rows, outputs, inputs, TransB: true, Autocast: true));
        if (!bias.IsEmpty)
            backend.AddBias(y, bias, rows, outputs);
        backend.MatMul(z, x, v, new MatMulArgs(rows, r, inputs, Autocast: true));
        backend.MatMul(mixed, z, m, new MatMulArgs(rows, r, r, Autocast: true));
        backend.MatMul(y, mixed, u, new MatMulArgs(rows, outputs, r, TransB: true, Accumulate: true, Autocast: true));
    }

    /// <summary><see cref="IBackend.LinearTermBackward"/> by single products.</summary>
    public static void Backward(IBackend backend, View dx, View dMixed, View dz, View dy, View w, View v, View m, View u, in TermArgs args, bool accumulate)
    {
        (int rows, int outputs, int inputs, int r) = args;
        backend.MatMul(dx, dy, w, new MatMulArgs(rows, inputs, outputs, Accumulate: accumulate, Autocast: true));
        backend.MatMul(dMixed, dy, u, new MatMulArgs(rows, r, outputs, Autocast: true));
        backend.MatMul(dz, dMixed, m, new MatMulArgs(rows, r, r, TransB: true, Autocast: true));
        backend.MatMul(dx, dz, v, new MatMulArgs(rows, inputs, r, TransB: true, Accumulate: true, Autocast: true));
    }
}

/// <summary>Rows [Start, Start + Count) of a low-rank term, and their M [r, r]; an empty M stands for the identity.</summary>
public readonly record struct TermSegment(int Start, int Count, View M);

public partial interface IBackend
{
    /// <summary>
    /// How the backend likes to have activations [rows, cols] held that products of layers read or write and little else: fp32, or bf16 where such products round what they read. Views of that type,
    /// beside fp32, are taken as the result of <see cref="RmsNormForward"/>, as all operands of <see cref="GatedForward"/> and <see cref="GatedBackward"/>, as
    /// x and dx of <see cref="NormRopeForward"/> and <see cref="NormRopeBackward"/>, as x, y and their gradients of <see cref="LinearTerm"/> and <see cref="LinearTermBackward"/>, and as A and C of a
    /// product with <see cref="MatMulArgs.Autocast"/>; sums are fp32 in either.
    /// </summary>
    DType LayerType(int rows, int cols) => DType.F32;

    /// <summary>C = op(A)·op(B), or C += op(A)·op(B). A and C are fp32; B is fp32, fp16, bf16 or packed (the bits are those of its decoded elements as fp32).</summary>
    void MatMul(View c, View a, View b, in MatMulArgs args);

    /// <summary>
    /// A linear layer with a low-rank term on all rows, for training: y = x·Wᵀ + bias + mixed·Uᵀ with z = x·V and mixed = z·M. A backend may add the term in another order,
    /// so that bits may differ from those of the products one after the other.
    /// </summary>
    /// <param name="y">[Rows, Outputs].</param>
    /// <param name="z">[Rows, Rank]; the backward pass of M needs it.</param>
    /// <param name="mixed">[Rows, Rank], overwritten.</param>
    /// <param name="x">[Rows, Inputs].</param>
    /// <param name="w">[Outputs, Inputs], fp32, fp16, bf16 or packed.</param>
    /// <param name="bias">[Outputs], or empty.</param>
    /// <param name="v">[Inputs, Rank]; where <see cref="LayerType"/> of the rows is bf16, it may be bf16 too.</param>
    /// <param name="m">[Rank, Rank].</param>
    /// <param name="u">[Outputs, Rank], as v.</param>
    /// <param name="args">Sizes.</param>
    void LinearTerm(View y, View z, View mixed, View x, View w, View bias, View v, View m, View u, in TermArgs args) => TermArgs.Forward(this, y, z, mixed, x, w, bias, v, m, u, args);

    /// <summary>dx = (accumulate: dx +) dy·W + dz·Vᵀ with dMixed = dy·U [Rows, Rank] and dz = dMixed·Mᵀ [Rows, Rank]; bits as for <see cref="LinearTerm"/>. A V of bf16 is Vᵀ here, [Rank, Inputs].</summary>
    void LinearTermBackward(View dx, View dMixed, View dz, View dy, View w, View v, View m, View u, in TermArgs args, bool accumulate) =>
        TermArgs.Backward(this, dx, dMixed, dz, dy, w, v, m, u, args, accumulate);

    /// <summary>
    /// A product with a low-rank term, for few rows: y = x·Wᵀ, and in the rows of each segment y += ((x·Downᵀ)·M)·Uᵀ. Rows in
    /// no segment are those of x·Wᵀ exactly. The bits are those of the products one after the other, which this method
    /// computes; a backend may run them in one go.
    /// </summary>
    /// <param name="y">[Rows, Outputs].</param>
    /// <param name="x">[Rows, Inputs].</param>
    /// <param name="w">[Outputs, Inputs], fp32, fp16, bf16 or packed.</param>
    /// <param name="down">[Rank, Inputs].</param>
    /// <param name="u">[Outputs, Rank].</param>
    /// <param name="segments">Row ranges, ascending and disjoint.</param>
    /// <param name="room">2 · Rows · Rank elements, overwritten.</param>
    /// <param name="args">Sizes.</param>
    void MatMulTerm(View y, View x, View w, View down, View u, ReadOnlySpan<TermSegment> segments, View room, in TermArgs args)
        => TermArgs.OneByOne(this, y, x, w, down, u, segments, room, args);

    /// <summary>y[rows, cols] += bias[cols], in place.</summary>
    void AddBias(View y, View bias, int rows, int cols);

    /// <summary>dBias[cols] += Σ_rows dy[rows, cols].</summary>
    void AddBiasBackward(View dBias, View dy, int rows, int cols);
}
