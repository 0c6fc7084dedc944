using System.Runtime.InteropServices;
using Repeng.Kernels.Cuda.Interop;

namespace Repeng.Kernels.Cuda;

/// <summary>
/// Singular vectors by cuSOLVER on a context's stream: cusolverDnXgesvdp in fp64. Of the library's decompositions it is the one that is made of products (a polar decomposition,
/// then symmetric eigenvectors): gesvd spends half of its work in products with a vector, which the memory bounds, and gesvdj is for small matrices. Its price, singular values near zero that are
/// shifted a little, does not reach the leading vectors, which are all that is taken; the triplets are computed anew from W by <see cref="LinearAlgebra.TopSvd"/>. Not thread-safe; the backend locks.
/// </summary>
internal sealed unsafe class CudaSolver : IDisposable
{
    private readonly CudaContext _context;
    private readonly Cusolver _library;
    private nint _handle;
    private nint _parameters;

    private CudaSolver(CudaContext context, Cusolver library) => (_context, _library) = (context, library);

    /// <summary>Decompositions so far.</summary>
    public int Count { get; private set; }

    public static CudaSolver Open(CudaContext context, Cusolver library)
    {
        context.MakeCurrent();
        var solver = new CudaSolver(context, library);
        try
        {
            solver.Check(library.Create(out solver._handle), "cusolverDnCreate", context.Device.Name);
            solver.Check(library.SetStream(solver._handle, context.Stream.Value), "cusolverDnSetStream", context.Device.Name);
            solver.Check(library.CreateParams(out solver._parameters), "cusolverDnCreateParams", context.Device.Name);
            return solver;
        }
        catch
        {
            solver.Dispose();
            throw;
        }
    }

    /// <summary>
    /// The r leading right singular vectors [r, n] of a [m, n], column-major, m ≥ n, in fp64, r ≤ n. False where the device has no room for the decomposition, or where it did not converge.
    /// </summary>
    public bool LeadingRight(Span<double> basis, ReadOnlySpan<double> a, long m, long n, int r)
    {
        const long Unit = sizeof(double);
        string what = $"{m} × {n}";
        _context.MakeCurrent();
        Check(_library.GesvdpBufferSize(_handle, _parameters, m, n, 0, m, 0, 0, m, 0, n, out nuint deviceBytes, out nuint hostBytes), "cusolverDnXgesvdp_bufferSize", what);
        // One block: a, u, v, s, info, workspace, each on 256 bytes.
        long end = 0;
        long atA = Place(Unit * m * n), atU = Place(Unit * m * n), atV = Place(Unit * n * n), atS = Place(Unit * n), atInfo = Place(sizeof(int)), atWork = Place((long)deviceBytes);
        if (end > _context.Memory().Free)
            return false;
        nint room = _context.Allocate(end);
        void* hostWork = null;
        try
        {
            if (hostBytes > 0)
                hostWork = NativeMemory.AlignedAlloc(hostBytes, 64);
            _context.Upload(room + (nint)atA, MemoryMarshal.AsBytes(a));
            Check(_library.Gesvdp(_handle, _parameters, m, n, room + (nint)atA, m, room + (nint)atS, room + (nint)atU, m, room + (nint)atV, n, room + (nint)atWork, deviceBytes, hostWork, hostBytes, room + (nint)atInfo, out double _), "cusolverDnXgesvdp", what);
            int info = 0;
            _context.Download(MemoryMarshal.AsBytes(new Span<int>(ref info)), room + (nint)atInfo);
            if (info != 0)
                return false;
            Count++;
            // Column i of v is row i of the basis.
            _context.Download(MemoryMarshal.AsBytes(basis[..checked((int)(r * n))]), room + (nint)atV);
            double[] values = new double[n];
            _context.Download(MemoryMarshal.AsBytes(values.AsSpan()), room + (nint)atS);
            return Descends(values);
        }
        finally
        {
            NativeMemory.AlignedFree(hostWork);
            _context.Free(room);
        }

        long Place(long bytes)
        {
            long at = end;
            end = (end + bytes + 255) & ~255L;
            return at;
        }
    }

    /// <inheritdoc/>
    public void Dispose()
    {
        nint handle = _handle, parameters = _parameters;
        (_handle, _parameters) = (0, 0);
        // What is only given back cannot stop the work.
        if (parameters != 0)
            _library.DestroyParams(parameters);
        if (handle != 0)
            _library.Destroy(handle);
    }

    // The order is what makes the first vectors the leading ones; NaN is in no order.
    private static bool Descends(double[] values)
    {
        for (int i = 1; i < values.Length; i++)
            if (!(values[i - 1] >= values[i]))
                return false;
        return true;
    }

    private void Check(int status, string function, string detail)
    {
        if (status != 0)
            throw new CudaLibraryException(_library.Name, function, detail, status);
    }
}
