namespace Repeng.Kernels.LinearAlgebra;

/// <summary>
/// A matrix in host memory as <see cref="DoubleGemm"/> reads it: element (i, j) lies at data[i·rowStride + j·columnStride],
/// in fp32 or in double. A transpose is an exchange of the two strides.
/// </summary>
internal readonly unsafe struct MatrixOperand
{
    private readonly void* _data;
    private readonly bool _single;

    /// <summary>Row-major doubles with the given distance between rows.</summary>
    public MatrixOperand(double* data, long rowStride, bool transposed = false)
        : this(data, false, transposed ? 1 : rowStride, transposed ? rowStride : 1)
    {
    }

    /// <summary>Row-major fp32 with the given distance between rows.</summary>
    public MatrixOperand(float* data, long rowStride, bool transposed = false)
        : this(data, true, transposed ? 1 : rowStride, transposed ? rowStride : 1)
    {
    }

    private MatrixOperand(void* data, bool single, long rowStride, long columnStride)
    {
        _data = data;
        _single = single;
        RowStride = rowStride;
        ColumnStride = columnStride;
    }

    /// <summary>Elements between (i, j) and (i + 1, j).</summary>
    public long RowStride { get; }

    /// <summary>Elements between (i, j) and (i, j + 1).</summary>
    public long ColumnStride { get; }

    /// <summary>Whether the elements are fp32 rather than double.</summary>
    public bool Single => _single;

    /// <summary>The transpose, without a copy.</summary>
    public MatrixOperand Transposed => new(_data, _single, ColumnStride, RowStride);

    /// <summary>The part that starts at (row, column).</summary>
    public MatrixOperand At(long row, long column)
    {
        long offset = row * RowStride + column * ColumnStride;
        return new MatrixOperand(_single ? (float*)_data + offset : (double*)_data + offset, _single, RowStride, ColumnStride);
    }

    /// <summary>Address of the first element as fp32; only where <see cref="Single"/>.</summary>
    public float* Floats => (float*)_data;

    /// <summary>Address of the first element as double; only where not <see cref="Single"/>.</summary>
    public double* Doubles => (double*)_data;
}
