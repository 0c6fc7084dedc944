using System.Runtime.InteropServices;

namespace Repeng.Kernels.Cuda.Interop;

/// <summary>cuBLASLt of this machine, from a CUDA toolkit or beside another program.</summary>
public sealed unsafe class NativeCublasLt : CublasLt
{
    private readonly nint _library;

    private NativeCublasLt(nint library, string name) => (_library, Name) = (library, name);

    /// <inheritdoc/>
    public override string Name { get; }

    /// <summary>File names that are tried, newest first.</summary>
    public static IReadOnlyList<string> FileNames { get; } = OperatingSystem.IsWindows()
        ? ["cublasLt64_13.dll", "cublasLt64_12.dll", "cublasLt64_11.dll"]
        : ["libcublasLt.so.13", "libcublasLt.so.12", "libcublasLt.so.11"];

    /// <summary>Opens the library; null where there is none.</summary>
    /// <exception cref="UserErrorException">It is there and lacks a function, or <see cref="CudaLibraries.Switch"/> names folders that are not there.</exception>
    public static NativeCublasLt? TryOpen() => CudaLibraryFile.Open(FileNames, [], s_functions, Environment.GetEnvironmentVariable) is (var library, { } name) ? new NativeCublasLt(library, name) : null;

    private static readonly string[] s_functions =
    [
        "cublasLtGetVersion", "cublasLtCreate", "cublasLtDestroy", "cublasLtMatmulDescCreate", "cublasLtMatmulDescDestroy", "cublasLtMatmulDescSetAttribute", "cublasLtMatrixLayoutCreate",
        "cublasLtMatrixLayoutDestroy", "cublasLtMatmulPreferenceCreate", "cublasLtMatmulPreferenceDestroy", "cublasLtMatmulPreferenceSetAttribute", "cublasLtMatmulAlgoGetHeuristic", "cublasLtMatmul",
    ];

    private nint Export(string name) => NativeLibrary.GetExport(_library, name);

    /// <inheritdoc/>
    public override nuint GetVersion() => ((delegate* unmanaged<nuint>)Export("cublasLtGetVersion"))();

    /// <inheritdoc/>
    public override int Create(out nint handle)
    {
        fixed (nint* h = &handle)
            return ((delegate* unmanaged<nint*, int>)Export("cublasLtCreate"))(h);
    }

    /// <inheritdoc/>
    public override int Destroy(nint handle) => ((delegate* unmanaged<nint, int>)Export("cublasLtDestroy"))(handle);

    /// <inheritdoc/>
    public override int MatmulDescCreate(out nint description, CublasCompute compute, CudaDataType scale)
    {
        fixed (nint* d = &description)
            return ((delegate* unmanaged<nint*, CublasCompute, CudaDataType, int>)Export("cublasLtMatmulDescCreate"))(d, compute, scale);
    }

    /// <inheritdoc/>
    public override int MatmulDescDestroy(nint description) => ((delegate* unmanaged<nint, int>)Export("cublasLtMatmulDescDestroy"))(description);

    /// <inheritdoc/>
    public override int MatmulDescSetAttribute(nint description, CublasLtDesc attribute, void* value, nuint bytes)
        => ((delegate* unmanaged<nint, CublasLtDesc, void*, nuint, int>)Export("cublasLtMatmulDescSetAttribute"))(description, attribute, value, bytes);

    /// <inheritdoc/>
    public override int MatrixLayoutCreate(out nint layout, CudaDataType type, ulong rows, ulong columns, long leadingDimension)
    {
        fixed (nint* l = &layout)
            return ((delegate* unmanaged<nint*, CudaDataType, ulong, ulong, long, int>)Export("cublasLtMatrixLayoutCreate"))(l, type, rows, columns, leadingDimension);
    }

    /// <inheritdoc/>
    public override int MatrixLayoutDestroy(nint layout) => ((delegate* unmanaged<nint, int>)Export("cublasLtMatrixLayoutDestroy"))(layout);

    /// <inheritdoc/>
    public override int MatmulPreferenceCreate(out nint preference)
    {
        fixed (nint* p = &preference)
            return ((delegate* unmanaged<nint*, int>)Export("cublasLtMatmulPreferenceCreate"))(p);
    }

    /// <inheritdoc/>
    public override int MatmulPreferenceDestroy(nint preference) => ((delegate* unmanaged<nint, int>)Export("cublasLtMatmulPreferenceDestroy"))(preference);

    /// <inheritdoc/>
    public override int MatmulPreferenceSetAttribute(nint preference, CublasLtPreference attribute, void* value, nuint bytes)
        => ((delegate* unmanaged<nint, CublasLtPreference, void*, nuint, int>)Export("cublasLtMatmulPreferenceSetAttribute"))(preference, attribute, value, bytes);

    /// <inheritdoc/>
    public override int MatmulAlgoGetHeuristic(nint handle, nint description, nint layoutA, nint layoutB, nint layoutC, nint layoutD, nint preference, int requested, CublasLtHeuristic* results, out int returned)
    {
        fixed (int* r = &returned)
            return ((delegate* unmanaged<nint, nint, nint, nint, nint, nint, nint, int, CublasLtHeuristic*, int*, int>)Export("cublasLtMatmulAlgoGetHeuristic"))(handle, description, layoutA, layoutB, layoutC, layoutD, preference, requested, results, r);
    }

    /// <inheritdoc/>
    public override int Matmul(nint handle, nint description, void* alpha, nint a, nint layoutA, nint b, nint layoutB, void* beta, nint c, nint layoutC, nint d, nint layoutD, CublasLtAlgorithm* algorithm, nint workspace, nuint workspaceBytes, nint stream)
        => _matmul(handle, description, alpha, a, layoutA, b, layoutB, beta, c, layoutC, d, layoutD, algorithm, workspace, workspaceBytes, stream);

    // Called for every product: looked up once.
    private delegate* unmanaged<nint, nint, void*, nint, nint, nint, nint, void*, nint, nint, nint, nint, CublasLtAlgorithm*, nint, nuint, nint, int> _matmul
        => (delegate* unmanaged<nint, nint, void*, nint, nint, nint, nint, void*, nint, nint, nint, nint, CublasLtAlgorithm*, nint, nuint, nint, int>)(_matmulExport == 0 ? _matmulExport = Export("cublasLtMatmul") : _matmulExport);

    private nint _matmulExport;
}
