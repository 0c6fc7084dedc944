using System.Runtime.InteropServices;
using System.Text;
using Repeng.Kernels.Cuda.Interop;

namespace Repeng.Kernels.Cuda;

/// <summary>A GPU: what the driver says about it. Memory in bytes, clocks in kHz.</summary>
public sealed record CudaDeviceInfo(int Ordinal, string Name, int Major, int Minor, long MemoryBytes, int Multiprocessors, int SharedBytesPerBlock, int L2Bytes, int ClockKilohertz, int MemoryClockKilohertz, int MemoryBusBits, bool Cooperative, bool MemoryPools, int ComputeMode)
{
    /// <summary>The least compute capability that the kernels are compiled for.</summary>
    public const int LeastMajor = 8;

    /// <summary>Whether the kernels can run on it.</summary>
    public bool Supported => Major >= LeastMajor;

    /// <summary>How many times faster fp32 arithmetic is than fp64: 2 on GPUs for computing, 32 or 64 on those for graphics; 0 where the driver does not say.</summary>
    public int DoubleRatio { get; init; }

    /// <summary>Bandwidth of the memory by its clock and bus, bytes a second (two transfers a clock); 0 where the driver does not say.</summary>
    public double MemoryBytesPerSecond => 2000.0 * MemoryClockKilohertz * MemoryBusBits / 8;

    /// <inheritdoc/>
    public override string ToString() => $"cuda:{Ordinal} {Name}, compute capability {Major}.{Minor}, {MemoryBytes / 1073741824.0:F1} GiB, {Multiprocessors} multiprocessors";
}

/// <summary>The driver and the GPUs that it shows to this process.</summary>
public sealed unsafe class CudaDevices
{
    /// <summary>The least driver, as cuDriverGetVersion numbers it: that of CUDA 11.8, whose compiler knows every target of the kernels.</summary>
    public const int LeastDriverVersion = 11080;

    private CudaDevices(CudaDriver driver, int version, IReadOnlyList<CudaDeviceInfo> list) => (Driver, DriverVersion, List) = (driver, version, list);

    /// <summary>The table of functions.</summary>
    public CudaDriver Driver { get; }

    /// <summary>Newest CUDA that the driver knows: 1000·major + 10·minor.</summary>
    public int DriverVersion { get; }

    /// <summary>The GPUs, by ordinal.</summary>
    public IReadOnlyList<CudaDeviceInfo> List { get; }

    /// <summary>Version as text, such as 12.4.</summary>
    public string DriverVersionText => VersionText(DriverVersion);

    /// <summary>Starts the driver of this machine and lists its GPUs. Throws <see cref="UserErrorException"/> with what exactly is missing.</summary>
    public static CudaDevices Find()
    {
        CudaDriver driver = NativeCudaDriver.TryOpen(out string why)
            ?? throw new UserErrorException($"CUDA: {why}; it comes with the NVIDIA driver, which is not installed here or not visible (in a container: start it with its GPUs); take --device cpu, or install the driver");
        return Find(driver);
    }

    /// <summary>As <see cref="Find()"/>, on an injected table.</summary>
    public static CudaDevices Find(CudaDriver driver)
    {
        ArgumentNullException.ThrowIfNull(driver);
        CudaException.Check(driver, driver.Init(0), "cuInit");
        CudaException.Check(driver, driver.DriverGetVersion(out int version), "cuDriverGetVersion");
        if (version < LeastDriverVersion)
            throw new UserErrorException($"CUDA: the driver knows CUDA {VersionText(version)}, the kernels need one that knows {VersionText(LeastDriverVersion)} or newer; update the NVIDIA driver, or take --device cpu");
        CudaException.Check(driver, driver.DeviceGetCount(out int count), "cuDeviceGetCount");
        var list = new List<CudaDeviceInfo>(count);
        for (int i = 0; i < count; i++)
            list.Add(Describe(driver, i));
        return new CudaDevices(driver, version, list);
    }

    /// <summary>
    /// The GPU with this ordinal; −1 takes the supported one with the most memory. Throws <see cref="UserErrorException"/> when there is
    /// none, when the ordinal is too large, or when the device is too old for the kernels.
    /// </summary>
    public CudaDeviceInfo Choose(int ordinal = -1)
    {
        if (List.Count == 0)
            throw new UserErrorException("CUDA: the driver is there but shows no GPU to this process; see nvidia-smi and CUDA_VISIBLE_DEVICES, or take --device cpu");
        if (ordinal >= List.Count)
            throw new UserErrorException($"--device cuda:{ordinal}: there {(List.Count == 1 ? "is one GPU, cuda:0" : $"are {List.Count} GPUs, cuda:0 to cuda:{List.Count - 1}")}");
        CudaDeviceInfo chosen = ordinal >= 0 ? List[ordinal] : List.OrderByDescending(d => d.Supported).ThenByDescending(d => d.MemoryBytes).First();
        return chosen.Supported ? chosen
            : throw new UserErrorException($"{chosen}: the kernels need compute capability {CudaDeviceInfo.LeastMajor}.0 (Ampere) or newer; take {(List.Any(d => d.Supported) ? $"cuda:{List.First(d => d.Supported).Ordinal}" : "--device cpu")}");
    }

    private static CudaDeviceInfo Describe(CudaDriver driver, int ordinal)
    {
        CudaException.Check(driver, driver.DeviceGet(out int device, ordinal), "cuDeviceGet", $"ordinal {ordinal}");
        byte* name = stackalloc byte[256];
        CudaException.Check(driver, driver.DeviceGetName(name, 256, device), "cuDeviceGetName");
        CudaException.Check(driver, driver.DeviceTotalMem(out nuint bytes, device), "cuDeviceTotalMem");
        return new CudaDeviceInfo(
            ordinal,
            Encoding.UTF8.GetString(MemoryMarshal.CreateReadOnlySpanFromNullTerminated(name)),
            Attribute(CuDeviceAttribute.ComputeCapabilityMajor),
            Attribute(CuDeviceAttribute.ComputeCapabilityMinor),
            (long)bytes,
            Attribute(CuDeviceAttribute.MultiprocessorCount),
            Attribute(CuDeviceAttribute.MaxSharedMemoryPerBlockOptin),
            Attribute(CuDeviceAttribute.L2CacheSize),
            Attribute(CuDeviceAttribute.ClockRate),
            Attribute(CuDeviceAttribute.MemoryClockRate),
            Attribute(CuDeviceAttribute.GlobalMemoryBusWidth),
            Attribute(CuDeviceAttribute.CooperativeLaunch) != 0,
            Attribute(CuDeviceAttribute.MemoryPoolsSupported) != 0,
            Attribute(CuDeviceAttribute.ComputeMode))
        {
            DoubleRatio = Attribute(CuDeviceAttribute.SingleToDoublePrecisionPerfRatio),
        };

        int Attribute(CuDeviceAttribute attribute)
        {
            CudaException.Check(driver, driver.DeviceGetAttribute(out int value, attribute, device), "cuDeviceGetAttribute", attribute.ToString());
            return value;
        }
    }

    private static string VersionText(int version) => $"{version / 1000}.{version % 1000 / 10}";
}
