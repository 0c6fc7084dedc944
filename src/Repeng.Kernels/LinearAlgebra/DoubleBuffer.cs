using System.Runtime.InteropServices;

namespace Repeng.Kernels.LinearAlgebra;

/// <summary>Zeroed native memory for doubles, aligned to 64 bytes; not bound by the garbage collector's array limits.</summary>
internal sealed unsafe class DoubleBuffer : IDisposable
{
    private double* _at;

    public DoubleBuffer(long length)
    {
        nuint bytes = (nuint)Math.Max(64, length * sizeof(double));
        try
        {
            _at = (double*)NativeMemory.AlignedAlloc(bytes, 64);
        }
        catch (OutOfMemoryException e)
        {
            throw new UserErrorException($"out of memory: {bytes / 1048576.0:F0} MiB more were asked for linear algebra in double; close other programs or use a smaller model", e);
        }
        NativeMemory.Clear(_at, bytes);
    }

    /// <summary>Frees memory that nobody disposed, such as after an exception between allocation and using.</summary>
    ~DoubleBuffer() => Release();

    /// <summary>Address of the first element; valid until <see cref="Dispose"/>.</summary>
    public double* At => _at;

    /// <summary>The first elements as a span.</summary>
    public Span<double> Span(int length) => new(_at, length);

    /// <inheritdoc/>
    public void Dispose()
    {
        Release();
        GC.SuppressFinalize(this);
    }

    private void Release()
    {
        NativeMemory.AlignedFree(_at);
        _at = null;
    }
}
