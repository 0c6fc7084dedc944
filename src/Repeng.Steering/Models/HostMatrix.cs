using System.Runtime.InteropServices;

namespace Repeng.Steering.Models;

/// <summary>A matrix of fp32 in host memory that goes back to the system at once, which the managed heap does not promise.</summary>
internal sealed unsafe class HostMatrix : IDisposable
{
    private readonly int _rows, _columns;

    /// <summary>[rows, columns], not zeroed.</summary>
    public HostMatrix(int rows, int columns)
    {
        (_rows, _columns) = (rows, columns);
        At = (float*)NativeMemory.Alloc((nuint)rows * (nuint)columns * sizeof(float));
    }

    /// <summary>The first element.</summary>
    public float* At { get; private set; }

    /// <summary>Turns values stored [columns, rows] to [rows, columns].</summary>
    public void Transpose()
    {
        var turned = (float*)NativeMemory.Alloc((nuint)_rows * (nuint)_columns * sizeof(float));
        float* from = At;
        Parallel.For(0, _rows, row =>
        {
            for (int column = 0; column < _columns; column++)
                turned[(long)row * _columns + column] = from[(long)column * _rows + row];
        });
        NativeMemory.Free(from);
        At = turned;
    }

    /// <inheritdoc/>
    public void Dispose()
    {
        NativeMemory.Free(At);
        At = null;
    }
}
