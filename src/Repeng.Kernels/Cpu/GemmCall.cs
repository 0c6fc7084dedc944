using Repeng.Kernels.Quantised;

namespace Repeng.Kernels.Cpu;

/// <summary>SIMD widths that the product has kernels for.</summary>
internal enum GemmWidth
{
    Bits128 = 128,
    Bits256 = 256,
    Bits512 = 512,
}

/// <summary>
/// An operand of the product: element (line, k) is Data[line·Line + k·Depth]. A line is a row of op(A) or a column of op(B).
/// Of a packed matrix Data counts elements, and <see cref="Packed"/> decodes them.
/// </summary>
internal unsafe struct GemmOperand
{
    public byte* Data;
    public DType Type;
    public PackedSource* Packed;
    public int Lines;
    public nint Line, Depth;

    /// <summary>Elements from one product of the batch to the next.</summary>
    public nint Stride;

    private readonly int Size => Packed != null ? 1 : Type.Size();

    /// <summary>Address of element (line, k); its number where the matrix is packed.</summary>
    public readonly byte* At(nint line, nint k) => Data + (line * Line + k * Depth) * Size;

    /// <summary>Moves to another product of the batch.</summary>
    public void Advance(nint products) => Data += products * Stride * Size;
}

/// <summary>One matrix product: C[left, right] = (C +) Σ_k Left[left, k]·Right[right, k], element (left, right) at C[left·LeftC + right·RightC].</summary>
internal unsafe struct GemmCall
{
    public GemmOperand Left, Right;
    public int K;
    public float* C;
    public nint LeftC, RightC, StrideC;
    public bool Accumulate;
    public int Batch;
    public GemmWidth Width;

    /// <summary>Exchanges the operands' roles; the product stays the same.</summary>
    public void Swap()
    {
        (Left, Right) = (Right, Left);
        (LeftC, RightC) = (RightC, LeftC);
    }
}
