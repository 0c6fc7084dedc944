using Repeng.Kernels.Cuda.Interop;

namespace Repeng.Kernels.Cuda;

/// <summary>NVIDIA's libraries that are used where they are installed; without them the kernels of this program do the work.</summary>
/// <param name="Products">cuBLASLt for large products; null for none.</param>
/// <param name="Solver">cuSOLVER for singular vectors; null for none.</param>
public sealed record CudaLibraries(CublasLt? Products, Cusolver? Solver = null)
{
    /// <summary>Environment variable: <c>none</c> leaves NVIDIA's libraries alone; folders, divided as in PATH, are where they are looked for.</summary>
    public const string Switch = "REPENG_CUDA_LIBRARIES";

    /// <summary>FLOP from which a product goes to cuBLASLt.</summary>
    public const double LeastWork = 1e9;

    /// <summary>The least cuBLASLt, as cublasLtGetVersion numbers it: that of CUDA 11.8.</summary>
    public const int LeastProductsVersion = 111103;

    /// <summary>The least cuSOLVER, as cusolverGetVersion numbers it: that of CUDA 11.8.</summary>
    public const int LeastSolverVersion = 11401;

    /// <summary>None.</summary>
    public static CudaLibraries None { get; } = new((CublasLt?)null);

    /// <summary>What is installed here. Throws <see cref="UserErrorException"/> where a library is there and cannot be used.</summary>
    public static CudaLibraries Find() => string.Equals(Environment.GetEnvironmentVariable(Switch), "none", StringComparison.OrdinalIgnoreCase) ? None : new CudaLibraries(NativeCublasLt.TryOpen(), NativeCusolver.TryOpen()).Checked();

    /// <summary>Refuses libraries of a version that this program was not made for.</summary>
    public CudaLibraries Checked()
    {
        if (Products is { } lt && lt.GetVersion() is < LeastProductsVersion and var version)
            throw TooOld(lt.Name, VersionText(version), VersionText(LeastProductsVersion));
        if (Solver is { } solver && SolverVersion(solver) is < LeastSolverVersion and var old)
            throw TooOld(solver.Name, SolverText(old), SolverText(LeastSolverVersion));
        return this;

        static UserErrorException TooOld(string name, string version, string least) =>
            new($"CUDA: {name} is version {version}, {least} (CUDA 11.8) or newer is needed; take it out of the library path, install a newer one, or set {Switch}=none to go without");
    }

    /// <summary>One line for people: what was found and what it is for. How exact products are does not depend on it (<see cref="CudaPrecision"/>).</summary>
    public string Describe() => Products is not { } lt
        ? $"no cuBLASLt ({string.Join(", ", NativeCublasLt.FileNames)}): products, attention and all else by the kernels of this program"
        : $"{lt.Name} {VersionText(lt.GetVersion())} for products of {LeastWork / 1e9:0} GFLOP and more: exact of bf16 and fp32 weights, bf16 of any; attention and all else, exact products of quantised weights too, by the kernels of this program";

    /// <summary>The same of singular vectors, on a device with this ratio of fp32 to fp64 arithmetic.</summary>
    public string DescribeSolver(int doubleRatio) => Solver is not { } solver
        ? $"no cuSOLVER ({string.Join(", ", NativeCusolver.FileNames)}): singular vectors on the CPU"
        : $"{solver.Name} {SolverText(SolverVersion(solver))} for {(doubleRatio <= FastDoubles ? "the" : $"more than a sixth of the (fewer on the CPU, as fp64 is {doubleRatio} times slower than fp32 here)")} leading singular vectors of weights with more than {LinearAlgebra.TopSvd.LargestSmall} rows and columns; other singular vectors on the CPU";

    /// <summary>Up to this ratio of fp32 to fp64 arithmetic a device decomposes any large weight: 2 on GPUs for computing, 32 and 64 on those for graphics.</summary>
    public const int FastDoubles = 4;

    private static int SolverVersion(Cusolver solver) =>
        solver.GetVersion(out int version) is 0 ? version : 0;

    private static string SolverText(int version) => $"{version / 1000}.{version / 100 % 10}.{version % 100}";

    private static string VersionText(nuint version) => $"{version / 10000}.{version / 100 % 100}.{version % 100}";
}
