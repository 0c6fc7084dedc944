using System.CommandLine;
using System.Globalization;
using Repeng.Kernels;
using Repeng.Kernels.Cuda;
using Repeng.Runtime;

namespace Repeng.Cli.Verbs;

/// <summary>--device, --precision and --threads of every verb that computes.</summary>
public sealed class DeviceOption
{
    private const string Cuda = "cuda";

    private readonly Option<string?> _device = new("--device") { Description = "where to compute: cpu, cuda (the GPU with the most memory), cuda:N, or auto, which takes the CPU and says so (default auto)" };
    private readonly Option<string?> _precision = new("--precision") { Description = "with --device cuda: exact (fp32 accuracy) or bf16, which rounds the operands of layers' products and attention's as torch.autocast does (default exact)" };
    private readonly Option<int?> _threads = CreateThreads();

    /// <summary>All of them.</summary>
    public IReadOnlyList<Option> All => [_device, _precision, _threads];

    /// <summary>--threads alone, of verbs that compute on the CPU.</summary>
    public static Option<int?> CreateThreads() => Opt.Int("--threads", "threads of the CPU; with --device cuda of what is left to it, such as the SVD of a weight; 0 for every core (default 0); results do not depend on it");

    /// <summary>Opens the device that was asked for; nothing is taken silently.</summary>
    public Device Open(ParseResult p, Session session) => Open(p.GetValue(_device), p.GetValue(_precision), p.GetValue(_threads), session);

    /// <summary>The CPU.</summary>
    public static Device OpenCpu(int? threads, Session session) => Open("cpu", null, threads, session);

    private static Device Open(string? device, string? precisionName, int? threads, Session session)
    {
        if (threads is < 0 or > 1024)
            throw new UserErrorException($"--threads {threads} must be from 0 (every core) to 1024");
        CudaPrecision precision = precisionName is null ? CudaPrecision.Exact : CudaPrecisions.Parse(precisionName);
        if (Ordinal(device) is { } ordinal)
        {
            CudaBackend backend = CudaBackend.Open(ordinal, precision);
            (long free, long total) = backend.Context.Memory();
            session.Say($"device: {backend.Context.Device}, {free / 1073741824.0:F1} of {total / 1073741824.0:F1} GiB free");
            session.Say($"precision: {precision.Describe()}; {backend.Libraries.Describe()}; {backend.Libraries.DescribeSolver(backend.Context.Device.DoubleRatio)}");
            return new Device(backend, threads ?? 0);
        }
        if (precision != CudaPrecision.Exact)
            throw new UserErrorException($"--precision {precisionName} is the GPU's, and --device {device ?? "auto"} is the CPU, which computes in fp32; leave --precision out, or add --device cuda");
        Device opened = Runtime.Device.Cpu(threads ?? 0);
        session.Say($"device: cpu, {opened.HostWorkers.Count} threads, {Kernels.Cpu.CpuBackend.Simd}{(device is null or "auto" ? " (auto)" : "")}");
        return opened;
    }

    // −1 for the best GPU, N for cuda:N, null for the CPU.
    private static int? Ordinal(string? device)
    {
        if (device is null or "auto" or "cpu")
            return null;
        if (device == Cuda)
            return -1;
        if (device.StartsWith(Cuda + ":", StringComparison.Ordinal) && int.TryParse(device.AsSpan(Cuda.Length + 1), NumberStyles.None, CultureInfo.InvariantCulture, out int ordinal))
            return ordinal;
        throw new UserErrorException($"--device {device} is not known; it is cpu, cuda, cuda:N with the number of a GPU, or auto");
    }
}
