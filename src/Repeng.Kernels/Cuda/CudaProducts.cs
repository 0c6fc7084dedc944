using Repeng.Kernels.Cuda.Interop;

namespace Repeng.Kernels.Cuda;

/// <summary>A function of one of NVIDIA's libraries that failed: which, with what, and what to do.</summary>
public sealed class CudaLibraryException(string library, string function, string detail, int status)
    : UserErrorException($"CUDA: {function} of {library} ({detail}) failed with {StatusName(function, status)} ({status}); set {CudaLibraries.Switch}=none to go without the library")
{
    /// <summary>The function, such as cublasLtMatmul.</summary>
    public string Function { get; } = function;

    private static string StatusName(string function, int status) => function.StartsWith("cusolver", StringComparison.Ordinal) ? SolverStatus(status) : ProductStatus(status);

    // cusolverStatus_t.
    private static string SolverStatus(int status) => status switch
    {
        1 => "CUSOLVER_STATUS_NOT_INITIALIZED",
        2 => "CUSOLVER_STATUS_ALLOC_FAILED",
        3 => "CUSOLVER_STATUS_INVALID_VALUE",
        4 => "CUSOLVER_STATUS_ARCH_MISMATCH",
        5 => "CUSOLVER_STATUS_MAPPING_ERROR",
        6 => "CUSOLVER_STATUS_EXECUTION_FAILED",
        7 => "CUSOLVER_STATUS_INTERNAL_ERROR",
        8 => "CUSOLVER_STATUS_MATRIX_TYPE_NOT_SUPPORTED",
        9 => "CUSOLVER_STATUS_NOT_SUPPORTED",
        _ => "an unknown status",
    };

    // cublasStatus_t.
    private static string ProductStatus(int status) => status switch
    {
        1 => "CUBLAS_STATUS_NOT_INITIALIZED",
        3 => "CUBLAS_STATUS_ALLOC_FAILED",
        7 => "CUBLAS_STATUS_INVALID_VALUE",
        8 => "CUBLAS_STATUS_ARCH_MISMATCH",
        11 => "CUBLAS_STATUS_MAPPING_ERROR",
        13 => "CUBLAS_STATUS_EXECUTION_FAILED",
        14 => "CUBLAS_STATUS_INTERNAL_ERROR",
        15 => "CUBLAS_STATUS_NOT_SUPPORTED",
        16 => "CUBLAS_STATUS_LICENSE_ERROR",
        _ => "an unknown status",
    };
}

/// <summary>
/// Products by cuBLASLt on a context's stream. Row-major C = op(A)·op(B) is column-major Cᵀ = op(B)ᵀ·op(A)ᵀ, so that B is the library's first operand. The algorithm of a
/// shape is asked for once and kept, so that a shape gives the same bits every time on one device. Not thread-safe; the backend locks.
/// </summary>
internal sealed unsafe class CudaProducts : IDisposable
{
    /// <summary>What addresses of operands are multiples of, bytes.</summary>
    public const int Alignment = 16;

    private const long WorkspaceBytes = 32 << 20;

    private readonly Dictionary<Shape, Plan?> _plans = [];
    private readonly CudaContext _context;
    private readonly CublasLt _library;
    private nint _handle;
    private nint _workspace;

    private CudaProducts(CudaContext context, CublasLt library, nint handle) => (_context, _library, _handle) = (context, library, handle);

    /// <summary>A product's sizes, as the library sees them.</summary>
    public readonly record struct Shape(int M, int N, int K, bool TransA, bool TransB, int LdA, int LdB, int LdC, CudaDataType Type, CublasCompute Compute, CudaDataType Result = CudaDataType.R32F);

    private sealed record Plan(nint Description, nint LayoutB, nint LayoutA, nint LayoutC, CublasLtAlgorithm Algorithm, nuint WorkspaceBytes);

    /// <summary>Shapes that have an algorithm.</summary>
    public int Plans => _plans.Count(p => p.Value is not null);

    public static CudaProducts Open(CudaContext context, CublasLt library)
    {
        context.MakeCurrent();
        int status = library.Create(out nint handle);
        return status == 0 ? new CudaProducts(context, library, handle) : throw new CudaLibraryException(library.Name, "cublasLtCreate", context.Device.Name, status);
    }

    /// <summary>C = (accumulate: C +) op(A)·op(B), both operands of the shape's type, C of its result's, each on <see cref="Alignment"/> bytes. False where the library has no algorithm for the shape.</summary>
    public bool Multiply(nint c, nint a, nint b, in Shape shape, bool accumulate)
    {
        _context.MakeCurrent();
        if (!_plans.TryGetValue(shape, out Plan? plan))
            _plans[shape] = plan = Make(shape);
        if (plan is null)
            return false;
        if (_workspace == 0)
            _workspace = _context.Allocate(WorkspaceBytes);
        float one = 1, beta = accumulate ? 1 : 0;
        CublasLtAlgorithm algorithm = plan.Algorithm;
        _context.CountWrite();
        int status = _library.Matmul(_handle, plan.Description, &one, b, plan.LayoutB, a, plan.LayoutA, &beta, c, plan.LayoutC, c, plan.LayoutC, &algorithm, _workspace, plan.WorkspaceBytes, _context.Stream.Value);
        // A library that cannot be captured is no error: the step is queued op by op.
        if (status != 0 && _context.IsRecording)
            throw new NotRecordableException($"a product of {_library.Name}");
        Check(status, "cublasLtMatmul", shape);
        return true;
    }

    /// <inheritdoc/>
    public void Dispose()
    {
        foreach (Plan? plan in _plans.Values)
            if (plan is not null)
                Release(plan.Description, plan.LayoutB, plan.LayoutA, plan.LayoutC);
        _plans.Clear();
        nint workspace = _workspace, handle = _handle;
        (_workspace, _handle) = (0, 0);
        try
        {
            _context.Free(workspace);
        }
        finally
        {
            if (handle != 0)
                _library.Destroy(handle);
        }
    }

    private Plan? Make(in Shape s)
    {
        nint description = 0, layoutB = 0, layoutA = 0, layoutC = 0, preference = 0;
        bool made = false;
        try
        {
            Check(_library.MatmulDescCreate(out description, s.Compute, CudaDataType.R32F), "cublasLtMatmulDescCreate", s);
            // Stored rows are the library's columns: what is stored [N, K] is K × N to it and must be turned to give op(B)ᵀ = N × K.
            int turnB = s.TransB ? 1 : 0, turnA = s.TransA ? 1 : 0;
            Check(_library.MatmulDescSetAttribute(description, CublasLtDesc.TransA, &turnB, sizeof(int)), "cublasLtMatmulDescSetAttribute", s);
            Check(_library.MatmulDescSetAttribute(description, CublasLtDesc.TransB, &turnA, sizeof(int)), "cublasLtMatmulDescSetAttribute", s);
            Check(_library.MatrixLayoutCreate(out layoutB, s.Type, (ulong)(s.TransB ? s.K : s.N), (ulong)(s.TransB ? s.N : s.K), s.LdB), "cublasLtMatrixLayoutCreate", s);
            Check(_library.MatrixLayoutCreate(out layoutA, s.Type, (ulong)(s.TransA ? s.M : s.K), (ulong)(s.TransA ? s.K : s.M), s.LdA), "cublasLtMatrixLayoutCreate", s);
            Check(_library.MatrixLayoutCreate(out layoutC, s.Result, (ulong)s.N, (ulong)s.M, s.LdC), "cublasLtMatrixLayoutCreate", s);
            Check(_library.MatmulPreferenceCreate(out preference), "cublasLtMatmulPreferenceCreate", s);
            nuint most = (nuint)WorkspaceBytes;
            Check(_library.MatmulPreferenceSetAttribute(preference, CublasLtPreference.MaxWorkspaceBytes, &most, (nuint)sizeof(nuint)), "cublasLtMatmulPreferenceSetAttribute", s);
            // Nothing said would be 256. One number for all, not that of these addresses: the algorithm, and with it the bits, must not depend on where memory was given.
            uint alignment = Alignment;
            foreach (CublasLtPreference attribute in (ReadOnlySpan<CublasLtPreference>)[CublasLtPreference.MinAlignmentA, CublasLtPreference.MinAlignmentB, CublasLtPreference.MinAlignmentC, CublasLtPreference.MinAlignmentD])
                Check(_library.MatmulPreferenceSetAttribute(preference, attribute, &alignment, sizeof(uint)), "cublasLtMatmulPreferenceSetAttribute", s);
            CublasLtHeuristic found;
            const int NotSupported = 15;
            int status = _library.MatmulAlgoGetHeuristic(_handle, description, layoutB, layoutA, layoutC, layoutC, preference, 1, &found, out int count);
            if (status == NotSupported || (status == 0 && (count == 0 || found.State != 0)))
                return null;
            Check(status, "cublasLtMatmulAlgoGetHeuristic", s);
            made = true;
            return new Plan(description, layoutB, layoutA, layoutC, found.Algorithm, found.WorkspaceBytes);
        }
        finally
        {
            if (preference != 0)
                _library.MatmulPreferenceDestroy(preference);
            if (!made)
                Release(description, layoutB, layoutA, layoutC);
        }
    }

    // What is only given back cannot stop the work.
    private void Release(nint description, params ReadOnlySpan<nint> layouts)
    {
        foreach (nint layout in layouts)
            if (layout != 0)
                _library.MatrixLayoutDestroy(layout);
        if (description != 0)
            _library.MatmulDescDestroy(description);
    }

    private void Check(int status, string function, in Shape s)
    {
        if (status != 0)
            throw new CudaLibraryException(_library.Name, function, $"{s.M} × {s.N} × {s.K}, {s.Type}", status);
    }
}
