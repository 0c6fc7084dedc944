using System.Runtime.InteropServices;
using Repeng.Kernels.Cuda.Interop;

namespace Repeng.Testing.Cuda;

/// <summary>How a <see cref="FakeCusolver"/> goes wrong without failing.</summary>
public enum WrongSingularVectors
{
    /// <summary>It does not.</summary>
    None,

    /// <summary>It says that it did not converge.</summary>
    NotConverged,

    /// <summary>Vectors are not numbers.</summary>
    NotNumbers,

    /// <summary>Singular values ascend, and their vectors with them.</summary>
    Ascending,

    /// <summary>Vectors are orthonormal and belong to another matrix.</summary>
    OfAnotherMatrix,
}

/// <summary>
/// cuSOLVER on the memory of an injected driver: keeps what it is told, refuses what the library would refuse, decomposes by a one-sided Jacobi of its own, and fails at a call on purpose.
/// </summary>
public sealed unsafe class FakeCusolver(CudaDriver driver) : Cusolver
{
    private const int InvalidValue = 3, ExecutionFailed = 6, DeviceWork = 4096, HostWork = 64;

    private readonly Dictionary<nint, string> _live = [];
    private nint _next = 0x7000;
    private nint _stream;
    private int _calls = -1;

    /// <inheritdoc/>
    public override string Name => "libcusolver.so.11";

    /// <summary>What <see cref="GetVersion"/> says.</summary>
    public int Version { get; init; } = 11603;

    /// <summary>How results are wrong.</summary>
    public WrongSingularVectors Wrong { get; init; }

    /// <summary>Bytes of workspace that are asked for on the device.</summary>
    public long Workspace { get; init; } = DeviceWork;

    /// <summary>The call that fails, from 0; −1 for none.</summary>
    public int FailAt { get; set; } = -1;

    /// <summary>Calls so far, without <see cref="GetVersion"/>.</summary>
    public int Calls => _calls + 1;

    /// <summary>The function that was made to fail.</summary>
    public string? Failed { get; private set; }

    /// <summary>Rows and columns of what was decomposed.</summary>
    public List<(long M, long N)> Decomposed { get; } = [];

    /// <summary>Things that were made and not destroyed.</summary>
    public int Live => _live.Count;

    /// <inheritdoc/>
    public override int GetVersion(out int version)
    {
        version = Version;
        return 0;
    }

    /// <inheritdoc/>
    public override int Create(out nint handle) => Make("cusolverDnCreate", out handle);

    /// <inheritdoc/>
    public override int Destroy(nint handle) => Remove("cusolverDnDestroy", "cusolverDnCreate", handle);

    /// <inheritdoc/>
    public override int SetStream(nint handle, nint stream)
    {
        if (Before("cusolverDnSetStream") is not 0 and var failure)
            return failure;
        if (!Is(handle, "cusolverDnCreate"))
            return InvalidValue;
        _stream = stream;
        return 0;
    }

    /// <inheritdoc/>
    public override int CreateParams(out nint parameters) => Make("cusolverDnCreateParams", out parameters);

    /// <inheritdoc/>
    public override int DestroyParams(nint parameters) => Remove("cusolverDnDestroyParams", "cusolverDnCreateParams", parameters);

    /// <inheritdoc/>
    public override int GesvdpBufferSize(nint handle, nint parameters, long m, long n, nint a, long lda, nint s, nint u, long ldu, nint v, long ldv, out nuint deviceBytes, out nuint hostBytes)
    {
        (deviceBytes, hostBytes) = ((nuint)Workspace, HostWork);
        if (Before("cusolverDnXgesvdp_bufferSize") is not 0 and var failure)
            return failure;
        return Fits(handle, parameters, m, n, lda, ldu, ldv) ? 0 : InvalidValue;
    }

    /// <inheritdoc/>
    public override int Gesvdp(nint handle, nint parameters, long m, long n, nint a, long lda, nint s, nint u, long ldu, nint v, long ldv, nint deviceWork, nuint deviceBytes, void* hostWork, nuint hostBytes, nint info, out double errSigma)
    {
        errSigma = 0;
        if (Before("cusolverDnXgesvdp") is not 0 and var failure)
            return failure;
        if (!Fits(handle, parameters, m, n, lda, ldu, ldv) || _stream == 0 || deviceWork == 0 || deviceBytes < (nuint)Workspace || hostWork is null || hostBytes < HostWork)
            return InvalidValue;
        // The workspace is the library's to write.
        new Span<byte>(hostWork, (int)hostBytes).Fill(0xAB);
        var given = new double[lda * n];
        if (!Read(given, a) || driver.MemsetD8Async(deviceWork, 0xAB, deviceBytes, _stream) != CuResult.Success)
            return ExecutionFailed;
        double[][] columns = [.. Enumerable.Range(0, (int)n).Select(j => given.AsSpan((int)(j * lda), (int)m).ToArray())];
        if (Wrong == WrongSingularVectors.OfAnotherMatrix)
            foreach (double[] column in columns)
                Array.Reverse(column, 0, column.Length / 2);
        double[][] right = Jacobi(columns);
        int[] order = [.. Enumerable.Range(0, (int)n).OrderBy(j => Wrong == WrongSingularVectors.Ascending ? Length(columns[j]) : -Length(columns[j]))];
        double[] values = [.. order.Select(j => Length(columns[j]))], left = new double[ldu * n], vectors = new double[ldv * n];
        for (int t = 0; t < n; t++)
        {
            for (int i = 0; i < m; i++)
                left[(t * ldu) + i] = values[t] > 0 ? columns[order[t]][i] / values[t] : 0;
            for (int i = 0; i < n; i++)
                vectors[(t * ldv) + i] = Wrong == WrongSingularVectors.NotNumbers ? double.NaN : right[order[t]][i];
        }
        Decomposed.Add((m, n));
        // The library overwrites the matrix.
        return Write(values, s) && Write(left, u) && Write(vectors, v) && Write(new double[lda * n], a) && Write<int>([Wrong == WrongSingularVectors.NotConverged ? 2 : 0], info) ? 0 : ExecutionFailed;
    }

    private static double Length(double[] x) => Math.Sqrt(Dot(x, x));

    private static double Dot(double[] x, double[] y)
    {
        double sum = 0;
        for (int i = 0; i < x.Length; i++)
            sum += x[i] * y[i];
        return sum;
    }

    // Turns pairs of columns until all are orthogonal; the turns make up the right vectors, by columns.
    private static double[][] Jacobi(double[][] columns)
    {
        double[][] right = [.. Enumerable.Range(0, columns.Length).Select(j => new double[columns.Length])];
        for (int j = 0; j < right.Length; j++)
            right[j][j] = 1;
        bool turned = true;
        for (int sweep = 0; turned && sweep < 40; sweep++)
        {
            turned = false;
            for (int p = 0; p < columns.Length; p++)
                for (int q = p + 1; q < columns.Length; q++)
                {
                    double a = Dot(columns[p], columns[p]), b = Dot(columns[q], columns[q]), c = Dot(columns[p], columns[q]);
                    if (Math.Abs(c) <= 1e-15 * Math.Sqrt(a * b) || c == 0)
                        continue;
                    turned = true;
                    double zeta = (b - a) / (2 * c), tan = Math.CopySign(1, zeta) / (Math.Abs(zeta) + Math.Sqrt(1 + (zeta * zeta))), cos = 1 / Math.Sqrt(1 + (tan * tan));
                    Turn(columns[p], columns[q], cos, cos * tan);
                    Turn(right[p], right[q], cos, cos * tan);
                }
        }
        return right;
    }

    private static void Turn(double[] x, double[] y, double cos, double sin)
    {
        for (int i = 0; i < x.Length; i++)
            (x[i], y[i]) = ((cos * x[i]) - (sin * y[i]), (sin * x[i]) + (cos * y[i]));
    }

    private bool Read<T>(T[] to, nint from)
        where T : unmanaged
    {
        fixed (T* p = to)
            return driver.MemcpyDtoHAsync(p, from, (nuint)(sizeof(T) * to.Length), _stream) == CuResult.Success && driver.StreamSynchronize(_stream) == CuResult.Success;
    }

    private bool Write<T>(T[] from, nint to)
        where T : unmanaged
    {
        fixed (T* p = from)
            return driver.MemcpyHtoDAsync(to, p, (nuint)(sizeof(T) * from.Length), _stream) == CuResult.Success && driver.StreamSynchronize(_stream) == CuResult.Success;
    }

    private bool Fits(nint handle, nint parameters, long m, long n, long lda, long ldu, long ldv) =>
        Is(handle, "cusolverDnCreate") && Is(parameters, "cusolverDnCreateParams") && m >= n && n > 0 && lda >= m && ldu >= m && ldv >= n;

    private bool Is(nint handle, string made) => _live.TryGetValue(handle, out string? by) && by == made;

    private int Make(string function, out nint handle)
    {
        handle = 0;
        if (Before(function) is not 0 and var failure)
            return failure;
        handle = _next += 16;
        _live.Add(handle, function);
        return 0;
    }

    // What destroys does so even where it is made to fail.
    private int Remove(string function, string made, nint handle)
    {
        bool there = Is(handle, made) && _live.Remove(handle);
        return Before(function) is not 0 and var failure ? failure : there ? 0 : InvalidValue;
    }

    private int Before(string function)
    {
        if (++_calls != FailAt)
            return 0;
        Failed = function;
        return 7;
    }
}
