using Repeng.Autograd;
using Repeng.Kernels;
using Repeng.Kernels.Cuda;
using Repeng.Kernels.Cuda.Interop;
using Repeng.PtxEmulator.Driver;
using Repeng.Runtime;
using Repeng.Runtime.Formats;
using Repeng.Steering.Adapters.Peft;
using Repeng.Steering.Generation;
using Repeng.Steering.Models;
using Repeng.Steering.Tests;
using Repeng.Steering.Vectors;
using Repeng.Testing;
using Repeng.Testing.Cuda;
using Steered = Repeng.Steering.Generation.Steering;

namespace Repeng.Cuda.Tests;

/// <summary>A recorded decoding step and a driver that fails: a class of its own, so that it runs beside <see cref="DecodeStepTests"/>.</summary>
public sealed class DecodeStepFaultTests
{
    /// <summary>Every call of the driver from before the recording to the last token: the function is named, the stream records nothing any more, the next generation is whole, nothing is left behind.</summary>
    [Fact]
    public void EveryCallFromTheRecordingOnMayFail()
    {
        ModelConfig config = DecodeStepTests.Small(1, 32);
        using var emulator = new EmulatedCudaDriver(new() { CheckLeaks = false });
        var whole = new FaultyCudaDriver(emulator) { Log = [] };
        int[] tokens = [];
        (tokens, int last, _) = Run(whole, -1);
        int first = whole.Log.IndexOf("cuMemHostAlloc");
        Assert.Equal(1, whole.Log.Count(name => name == "cuStreamBeginCapture"));
        Assert.True(first > 0 && whole.Log.IndexOf("cuStreamBeginCapture") > first && last - first > 50, $"calls {first} … {last}");
        var failed = new HashSet<string>();
        for (int i = first - 1; i < last; i++)
        {
            var faulty = new FaultyCudaDriver(emulator) { FailAt = i };
            (_, _, CudaException? e) = Run(faulty, i);
            Assert.NotNull(faulty.Failed);
            failed.Add(faulty.Failed);
            if (e is not null)
                Assert.StartsWith($"CUDA: {faulty.Failed}", e.Message);
            else
                // Only what gives back may fail in silence.
                Assert.True(faulty.Failed is "cuGraphExecDestroy" or "cuMemFreeHost" || (faulty.Failed == "cuCtxSetCurrent" && faulty.Following is "cuGraphExecDestroy" or "cuMemFreeHost"), $"{faulty.Failed}, then {faulty.Following}");
            Assert.Equal($"call {i}, {faulty.Failed}: ", $"call {i}, {faulty.Failed}: {emulator.Leaks()}");
        }
        Assert.Superset(new HashSet<string> { "cuMemHostAlloc", "cuStreamBeginCapture", "cuLaunchKernel", "cuMemcpyHtoDAsync", "cuStreamEndCapture", "cuGraphInstantiateWithFlags", "cuGraphDestroy", "cuGraphLaunch", "cuGraphExecDestroy", "cuMemFreeHost" }, failed);

        (int[], int Calls, CudaException?) Run(FaultyCudaDriver driver, int at)
        {
            using var device = new Device(CudaBackend.Open(driver, CudaDevices.Find(driver).Choose()));
            using DecoderModel model = DecodeStepTests.Load(device, config);
            int[] made = [];
            CudaException? e = null;
            try
            {
                made = Generate();
            }
            catch (CudaException caught)
            {
                e = caught;
            }
            int calls = driver.Calls;
            if (at >= 0)
                Assert.Equal(tokens, Generate());
            return (made, calls, e);

            int[] Generate() => new Generator(model).Generate([DecodeStepTests.Text(4, 1)], [0], Steered.None, new SamplingSettings { Sample = false }, 7, [])[0];
        }
    }
}
