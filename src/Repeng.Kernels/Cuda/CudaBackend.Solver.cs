using Repeng.Kernels.LinearAlgebra;

namespace Repeng.Kernels.Cuda;

public sealed partial class CudaBackend : ISingularVectors
{
    // A matrix that is turned goes by squares that the first cache holds.
    private const int TurnedTogether = 32;

    private CudaSolver? _solver;

    /// <summary>Matrices that the library has decomposed.</summary>
    public int LibraryDecompositions => _solver?.Count ?? 0;

    /// <summary>
    /// By cuSOLVER, of a matrix with more than <see cref="TopSvd.LargestSmall"/> rows and columns. Where fp64 is slow (<see cref="CudaLibraries.FastDoubles"/>), only of more than
    /// a sixth of all vectors: for fewer the host does not decompose the whole matrix. False where there is no library, or no room on the device.
    /// </summary>
    public bool LeadingRight(Span<double> basis, ReadOnlySpan<float> w, int rows, int cols, int r)
    {
        int n = Math.Min(rows, cols);
        if (w.Length != (long)rows * cols || basis.Length != (long)r * n || r < 1 || r > n)
            throw new ArgumentException($"{nameof(LeadingRight)}: {w.Length} elements of a matrix {rows} × {cols}, and {basis.Length} of {r} vectors of {n}");
        if (_libraries.Solver is not { } library || IsDry || n <= TopSvd.LargestSmall || (Context.Device.DoubleRatio > CudaLibraries.FastDoubles && r <= n / 6))
            return false;
        // The matrix and its left vectors at least; the rest is asked of the library.
        if (2L * sizeof(double) * w.Length > Context.Memory().Free)
            return false;
        double[] a = Tall(w, rows, cols);
        lock (_lock)
        {
            _solver ??= CudaSolver.Open(Context, library);
            return _solver.LeadingRight(basis, a, Math.Max(rows, cols), n, r);
        }
    }

    // The tall one of w and wᵀ by columns, in double: rows of a wide w are columns of its transpose already.
    private static double[] Tall(ReadOnlySpan<float> w, int rows, int cols)
    {
        double[] a = GC.AllocateUninitializedArray<double>(w.Length);
        if (rows < cols)
        {
            for (int i = 0; i < a.Length; i++)
                a[i] = w[i];
            return a;
        }
        for (int top = 0; top < rows; top += TurnedTogether)
            for (int left = 0; left < cols; left += TurnedTogether)
                for (int i = top; i < Math.Min(rows, top + TurnedTogether); i++)
                    for (int j = left; j < Math.Min(cols, left + TurnedTogether); j++)
                        a[((long)j * rows) + i] = w[(i * cols) + j];
        return a;
    }
}
