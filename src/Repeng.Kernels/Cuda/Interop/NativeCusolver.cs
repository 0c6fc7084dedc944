using System.Runtime.InteropServices;

namespace Repeng.Kernels.Cuda.Interop;

/// <summary>cuSOLVER of this machine, from a CUDA toolkit or beside another program. Called a few times a weight, so that exports are looked up each time.</summary>
public sealed unsafe class NativeCusolver : Cusolver
{
    // cusolverEigMode_t: vectors too. econ: only the first min(m, n) of them.
    private const int Vectors = 1, Economic = 1;

    private readonly nint _library;

    private NativeCusolver(nint library, string name) => (_library, Name) = (library, name);

    /// <inheritdoc/>
    public override string Name { get; }

    /// <summary>File names that are tried, newest first; CUDA 11 and 12 have number 11, CUDA 13 has 12.</summary>
    public static IReadOnlyList<string> FileNames { get; } = OperatingSystem.IsWindows() ? ["cusolver64_12.dll", "cusolver64_11.dll"] : ["libcusolver.so.12", "libcusolver.so.11"];

    /// <summary>Opens the library; null where there is none, or one whose own libraries (cuBLAS, cuSPARSE) are missing.</summary>
    /// <exception cref="UserErrorException">It is there and lacks a function, or <see cref="CudaLibraries.Switch"/> names folders that are not there.</exception>
    public static NativeCusolver? TryOpen() => CudaLibraryFile.Open(FileNames, s_helpers, s_functions, Environment.GetEnvironmentVariable) is (var library, { } name) ? new NativeCusolver(library, name) : null;

    // In the order in which they need one another.
    private static readonly string[] s_helpers = OperatingSystem.IsWindows() ? [] :
        ["libnvJitLink.so.13", "libnvJitLink.so.12", "libcublasLt.so.13", "libcublasLt.so.12", "libcublasLt.so.11", "libcublas.so.13", "libcublas.so.12", "libcublas.so.11", "libcusparse.so.12", "libcusparse.so.11"];

    private static readonly string[] s_functions =
        ["cusolverGetVersion", "cusolverDnCreate", "cusolverDnDestroy", "cusolverDnSetStream", "cusolverDnCreateParams", "cusolverDnDestroyParams", "cusolverDnXgesvdp_bufferSize", "cusolverDnXgesvdp"];

    private nint Export(string name) => NativeLibrary.GetExport(_library, name);

    /// <inheritdoc/>
    public override int GetVersion(out int version)
    {
        fixed (int* v = &version)
            return ((delegate* unmanaged<int*, int>)Export("cusolverGetVersion"))(v);
    }

    /// <inheritdoc/>
    public override int Create(out nint handle)
    {
        fixed (nint* h = &handle)
            return ((delegate* unmanaged<nint*, int>)Export("cusolverDnCreate"))(h);
    }

    /// <inheritdoc/>
    public override int Destroy(nint handle) => ((delegate* unmanaged<nint, int>)Export("cusolverDnDestroy"))(handle);

    /// <inheritdoc/>
    public override int SetStream(nint handle, nint stream) => ((delegate* unmanaged<nint, nint, int>)Export("cusolverDnSetStream"))(handle, stream);

    /// <inheritdoc/>
    public override int CreateParams(out nint parameters)
    {
        fixed (nint* p = &parameters)
            return ((delegate* unmanaged<nint*, int>)Export("cusolverDnCreateParams"))(p);
    }

    /// <inheritdoc/>
    public override int DestroyParams(nint parameters) => ((delegate* unmanaged<nint, int>)Export("cusolverDnDestroyParams"))(parameters);

    /// <inheritdoc/>
    public override int GesvdpBufferSize(nint handle, nint parameters, long m, long n, nint a, long lda, nint s, nint u, long ldu, nint v, long ldv, out nuint deviceBytes, out nuint hostBytes)
    {
        const CudaDataType T = CudaDataType.R64F;
        fixed (nuint* onDevice = &deviceBytes, onHost = &hostBytes)
            return ((delegate* unmanaged<nint, nint, int, int, long, long, CudaDataType, nint, long, CudaDataType, nint, CudaDataType, nint, long, CudaDataType, nint, long, CudaDataType, nuint*, nuint*, int>)Export("cusolverDnXgesvdp_bufferSize"))(
                handle, parameters, Vectors, Economic, m, n, T, a, lda, T, s, T, u, ldu, T, v, ldv, T, onDevice, onHost);
    }

    /// <inheritdoc/>
    public override int Gesvdp(nint handle, nint parameters, long m, long n, nint a, long lda, nint s, nint u, long ldu, nint v, long ldv, nint deviceWork, nuint deviceBytes, void* hostWork, nuint hostBytes, nint info, out double errSigma)
    {
        const CudaDataType T = CudaDataType.R64F;
        fixed (double* shift = &errSigma)
            return ((delegate* unmanaged<nint, nint, int, int, long, long, CudaDataType, nint, long, CudaDataType, nint, CudaDataType, nint, long, CudaDataType, nint, long, CudaDataType, nint, nuint, void*, nuint, nint, double*, int>)Export("cusolverDnXgesvdp"))(
                handle, parameters, Vectors, Economic, m, n, T, a, lda, T, s, T, u, ldu, T, v, ldv, T, deviceWork, deviceBytes, hostWork, hostBytes, info, shift);
    }
}
