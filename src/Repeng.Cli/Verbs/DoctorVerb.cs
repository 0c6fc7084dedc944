using System.CommandLine;
using System.Diagnostics;
using System.Runtime.InteropServices;
using Repeng.Cli.Reports;
using Repeng.Kernels;
using Repeng.Kernels.Cpu;
using Repeng.Kernels.Cuda;
using Repeng.Runtime;
using Repeng.Steering.Models;
using Repeng.Steering.Training;

namespace Repeng.Cli.Verbs;

/// <summary>doctor: what there is to compute with, how fast it is, and whether the built-in model is whole.</summary>
public sealed class DoctorVerb
{
    private readonly Option<int?> _threads = DeviceOption.CreateThreads();
    private readonly Session _session;

    private DoctorVerb(Session session) => _session = session;

    /// <summary>The verb.</summary>
    public static Command Create(Session session)
    {
        var verb = new DoctorVerb(session);
        var command = new Command("doctor", "Say what there is to compute with, how fast it is, and whether the demo model is whole") { verb._threads };
        command.SetAction(verb.Run);
        return command;
    }

    private int Run(ParseResult p)
    {
        using Device device = DeviceOption.OpenCpu(p.GetValue(_threads), _session);
        DeviceRate rate = DeviceRate.Measure(device);
        Line("system", $"{RuntimeInformation.OSDescription.Trim()}, {RuntimeInformation.OSArchitecture}");
        Line(".NET", RuntimeInformation.FrameworkDescription);
        Line("CPU", $"{CpuName()}, {Environment.ProcessorCount} cores for this process, SIMD {CpuBackend.Simd}");
        Line("memory", $"{Format.Bytes(GC.GetGCMemoryInfo().TotalAvailableMemoryBytes)} for this process");
        Line("matrix product", $"{Format.Number(rate.FlopsPerSecond / 1e9, 1)} GFLOP/s in fp32 on {device.HostWorkers.Count} threads; elementwise {Format.Number(rate.BytesPerSecond / 1e9, 1)} GB/s");
        Cuda();
        try
        {
            var watch = Stopwatch.StartNew();
            using ModelBundle demo = ModelBundle.Load(device, ModelBundle.Demo);
            Line("demo model", $"whole: {demo.Model.Config.NumLayers} blocks, {demo.Model.Parameters.Values.Sum(t => t.Length)} parameters, fingerprint {demo.Model.Fingerprint}, loaded in {watch.ElapsedMilliseconds} ms");
        }
        catch (UserErrorException e)
        {
            Line("demo model", $"NOT usable: {e.Message}");
            throw new UserErrorException($"the demo model in {ModelBundle.DemoFolder} cannot be used; build or install the program again", e);
        }
        return ExitCodes.Ok;
    }

    private void Line(string what, string text) => _session.Print($"{(what.Length > 0 ? what + ":" : ""),-16}{text}");

    // What there is for --device cuda: driver, devices with free memory and what the kernels need; or exactly what is missing.
    private void Cuda()
    {
        CudaDevices devices;
        try
        {
            devices = CudaDevices.Find();
        }
        catch (UserErrorException e)
        {
            Line("CUDA", e.Message.StartsWith("CUDA: ", StringComparison.Ordinal) ? e.Message[6..] : e.Message);
            return;
        }
        Line("CUDA", $"driver {devices.Driver.Name} of CUDA {devices.DriverVersionText}, {devices.List.Count} GPU{(devices.List.Count == 1 ? "" : "s")}; kernels for compute capability {CudaDeviceInfo.LeastMajor}.0 and newer, compiled by the driver from {KernelImages.Names.Count} images");
        foreach (CudaDeviceInfo d in devices.List)
        {
            string state;
            try
            {
                using CudaContext context = CudaContext.Open(devices.Driver, d);
                state = $"{Format.Bytes(context.Memory().Free)} free";
            }
            catch (CudaException e)
            {
                state = $"cannot be opened: {e.Message}";
            }
            Line($"cuda:{d.Ordinal}", $"{d.Name}, compute capability {d.Major}.{d.Minor}{(d.Supported ? "" : " (too old for the kernels)")}, {Format.Bytes(d.MemoryBytes)}, {state}, {d.Multiprocessors} multiprocessors, {Format.Number(d.MemoryBytesPerSecond / 1e9, 0)} GB/s by its clocks");
        }
        try
        {
            CudaLibraries libraries = CudaLibraries.Find();
            Line("", libraries.Describe());
            foreach (int ratio in devices.List.Select(d => d.DoubleRatio).DefaultIfEmpty(0).Distinct())
                Line("", libraries.DescribeSolver(ratio));
        }
        catch (UserErrorException e)
        {
            Line("", e.Message);
        }
        foreach (CudaPrecision precision in Enum.GetValues<CudaPrecision>())
            Line("", $"--precision {precision.Describe()}");
    }

    private static string CpuName()
    {
        const string info = "/proc/cpuinfo";
        if (File.Exists(info) && File.ReadLines(info).FirstOrDefault(l => l.StartsWith("model name", StringComparison.Ordinal)) is { } line)
            return line[(line.IndexOf(':', StringComparison.Ordinal) + 1)..].Trim();
        return Environment.GetEnvironmentVariable("PROCESSOR_IDENTIFIER") ?? RuntimeInformation.ProcessArchitecture.ToString();
    }
}
