using Repeng.Kernels.Cuda.Interop;

namespace Repeng.Kernels.Cuda;

/// <summary>NVIDIA's libraries that are used where they are installed; without them the kernels of this program do the work.</summary>
/// <param name="Products">cuBLASLt for large products; null for none.</param>
public sealed record CudaLibraries(CublasLt? Products)
{
    /// <summary>Environment variable: <c>none</c> leaves NVIDIA's libraries alone.</summary>
    public const string Switch = "REPENG_CUDA_LIBRARIES";

    /// <summary>FLOP from which a product goes to cuBLASLt.</summary>
    public const double LeastWork = 1e9;

    /// <summary>The least cuBLASLt, as cublasLtGetVersion numbers it: that of CUDA 11.8.</summary>
    public const int LeastProductsVersion = 111103;

    /// <summary>None.</summary>
    public static CudaLibraries None { get; } = new((CublasLt?)null);

    /// <summary>What is installed here. Throws <see cref="UserErrorException"/> where a library is there and cannot be used.</summary>
    public static CudaLibraries Find() => string.Equals(Environment.GetEnvironmentVariable(Switch), "none", StringComparison.OrdinalIgnoreCase) ? None : new CudaLibraries(NativeCublasLt.TryOpen()).Checked();

    /// <summary>Refuses libraries of a version that this program was not made for.</summary>
    public CudaLibraries Checked()
    {
        if (Products is { } lt && lt.GetVersion() is < LeastProductsVersion and var version)
            throw new UserErrorException($"CUDA: {lt.Name} is version {VersionText(version)}, {VersionText(LeastProductsVersion)} (CUDA 11.8) or newer is needed; take it out of the library path, install a newer one, or set {Switch}=none to go without");
        return this;
    }

    /// <summary>One line for people: what was found and what it is for. How exact products are does not depend on it (<see cref="CudaPrecision"/>).</summary>
    public string Describe() => Products is not { } lt
        ? $"no cuBLASLt ({string.Join(", ", NativeCublasLt.FileNames)}): products, attention and all else by the kernels of this program"
        : $"{lt.Name} {VersionText(lt.GetVersion())} for products of {LeastWork / 1e9:0} GFLOP and more: exact of bf16 and fp32 weights, bf16 of any; attention and all else, exact products of quantised weights too, by the kernels of this program";

    private static string VersionText(nuint version) => $"{version / 10000}.{version / 100 % 100}.{version % 100}";
}
