using System.CommandLine;
using Repeng.Kernels;
using Repeng.Runtime;

namespace Repeng.Cli.Verbs;

/// <summary>--device and --threads of every verb that computes.</summary>
public static class DeviceOption
{
    /// <summary>--device.</summary>
    public static Option<string?> Create() => Opt.Choice("--device", "where to compute; auto takes the best there is and says which (default auto)", "auto", "cpu", "cuda");

    /// <summary>--threads.</summary>
    public static Option<int?> CreateThreads() => Opt.Int("--threads", "threads; 0 for every core (default 0); results do not depend on it");

    /// <summary>Opens the device; nothing is taken silently.</summary>
    public static Device Open(string? device, int? threads, Session session)
    {
        if (device == "cuda")
            throw new UserErrorException("--device cuda: the CUDA backend comes later; take --device cpu or auto");
        if (threads is < 0 or > 1024)
            throw new UserErrorException($"--threads {threads} must be from 0 (every core) to 1024");
        Device opened = Runtime.Device.Cpu(threads ?? 0);
        session.Say($"device: cpu, {opened.HostWorkers.Count} threads, {Kernels.Cpu.CpuBackend.Simd}{(device is null or "auto" ? " (auto)" : "")}");
        return opened;
    }
}
