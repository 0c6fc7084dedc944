using System.Diagnostics;

namespace Repeng.PtxEmulator.Tests;

/// <summary>How fast the compiler is against the interpreter: <c>-trait Category=speed</c>, on a quiet machine.</summary>
public sealed class SpeedTests(ITestOutputHelper output)
{
    private double Rate(bool compile, bool check, string file, string kernel, int blocks, int threads, Func<Gpu, object[]> parameters)
    {
        using var gpu = new Gpu(new EmulatorOptions { Compile = compile, CheckGlobalRaces = check, CheckSharedRaces = check, CheckInitialization = check, CountMemory = check });
        PtxFunction function = gpu.Kernel(file, kernel);
        object[] values = parameters(gpu);
        long began = Stopwatch.GetTimestamp();
        // The JIT replaces its first code after a while.
        while (compile && Stopwatch.GetElapsedTime(began).TotalSeconds < 2)
            gpu.Run(function, blocks, threads, values);
        long lanes = 0;
        TimeSpan started = Processor(), used;
        do
        {
            lanes += gpu.Run(function, blocks, threads, values).LaneInstructions;
            used = Processor() - started;
        }
        while (used.TotalSeconds < 1);
        double rate = lanes / used.TotalSeconds;
        output.WriteLine($"{kernel}, {(compile ? "compiled" : "interpreted")}, checks and counters {(check ? "on" : "off")}: {rate / 1e6:0.0} million lane instructions a second of processor time");
        return rate;
    }

    private static TimeSpan Processor() => Process.GetCurrentProcess().TotalProcessorTime;

    private void Compare(string file, string kernel, int blocks, int threads, Func<Gpu, object[]> parameters)
    {
        double slow = Rate(false, true, file, kernel, blocks, threads, parameters);
        double checkedRate = Rate(true, true, file, kernel, blocks, threads, parameters), free = Rate(true, false, file, kernel, blocks, threads, parameters);
        output.WriteLine($"{kernel}: compiled / interpreted {checkedRate / slow:0.0} with checks, {free / slow:0.0} without");
    }

    [Fact(Explicit = true)]
    [Trait("Category", "speed")]
    public void Lane_instructions_a_second()
    {
        Compare("mma.ptx", "arithmetic", 2, 128, gpu => [gpu.Empty(2 * 128 * 4), 2000]);
        Compare("basic.ptx", "saxpy", 256, 256, gpu => [65536, 2f, gpu.Upload(new float[65536]), gpu.Upload(new float[65536])]);
        Compare("basic.ptx", "rms_norm", 64, 128, gpu => [gpu.Upload(new float[64 * 1024]), gpu.Upload(new float[1024]), gpu.Empty(64 * 1024 * 4), 1024, 1e-5f]);
        Compare("mma.ptx", "matmul_bf16", 1, 128, gpu => [gpu.Upload(new ushort[64 * 1024]), gpu.Upload(new ushort[64 * 1024]), gpu.Empty(64 * 64 * 4), 1024]);
    }
}
