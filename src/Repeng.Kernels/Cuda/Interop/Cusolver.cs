namespace Repeng.Kernels.Cuda.Interop;

/// <summary>
/// The functions of cuSOLVER that this engine calls, as a table that is injected, like <see cref="CublasLt"/>. Names, order of the arguments and
/// results (cusolverStatus_t, 0 is success) are those of cusolverDn.h. Matrices are column-major, in fp64.
/// </summary>
public abstract unsafe class Cusolver
{
    /// <summary>What to call it in messages: <c>libcusolver.so.11</c>.</summary>
    public abstract string Name { get; }

    /// <summary>cusolverGetVersion: 1000·major + 100·minor + patch.</summary>
    public abstract int GetVersion(out int version);

    /// <summary>cusolverDnCreate.</summary>
    public abstract int Create(out nint handle);

    /// <summary>cusolverDnDestroy.</summary>
    public abstract int Destroy(nint handle);

    /// <summary>cusolverDnSetStream.</summary>
    public abstract int SetStream(nint handle, nint stream);

    /// <summary>cusolverDnCreateParams.</summary>
    public abstract int CreateParams(out nint parameters);

    /// <summary>cusolverDnDestroyParams.</summary>
    public abstract int DestroyParams(nint parameters);

    /// <summary>cusolverDnXgesvdp_bufferSize with vectors, econ and fp64 throughout: bytes of workspace on the device and on the host.</summary>
    public abstract int GesvdpBufferSize(nint handle, nint parameters, long m, long n, nint a, long lda, nint s, nint u, long ldu, nint v, long ldv, out nuint deviceBytes, out nuint hostBytes);

    /// <summary>
    /// cusolverDnXgesvdp with vectors, econ and fp64 throughout: a [m, n] = u·diag(s)·vᵀ, s descending, u [m, min(m, n)], v [n, min(m, n)] (not its transpose).
    /// a is overwritten; info (device memory, one int) is 0 where it converged; errSigma is what singular values near zero were shifted by.
    /// </summary>
    public abstract int Gesvdp(nint handle, nint parameters, long m, long n, nint a, long lda, nint s, nint u, long ldu, nint v, long ldv, nint deviceWork, nuint deviceBytes, void* hostWork, nuint hostBytes, nint info, out double errSigma);
}
