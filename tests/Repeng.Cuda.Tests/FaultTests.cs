using Repeng.Autograd;
using Repeng.Kernels;
using Repeng.Kernels.Cuda;
using Repeng.Kernels.Cuda.Interop;
using Repeng.PtxEmulator;
using Repeng.PtxEmulator.Driver;
using Repeng.Runtime;
using Repeng.Steering.Adapters;
using Repeng.Steering.Generation;
using Repeng.Steering.Losses;
using Repeng.Steering.Models;
using Repeng.Steering.Training;
using Repeng.Testing.Cuda;

namespace Repeng.Cuda.Tests;

/// <summary>Driver calls that fail in the middle of training and generating: one line that names the function, nothing left behind, no hang.</summary>
public sealed class FaultTests
{
    private static readonly string[] s_givingBack = ["cuModuleUnload", "cuStreamDestroy", "cuEventDestroy", "cuGraphExecDestroy", "cuGraphDestroy", "cuDevicePrimaryCtxRelease", "cuMemFreeHost"];

    /// <summary>Makes a model, trains it a step and lets it write, the last tokens from a recorded step: the loss and the tokens.</summary>
    private static (double Loss, int[] Tokens) Work(Func<IBackend> open)
    {
        ModelConfig config = new()
        {
            ModelType = "llama",
            VocabSize = 40,
            HiddenSize = 16,
            IntermediateSize = 24,
            NumLayers = 2,
            NumHeads = 2,
            NumKvHeads = 1,
            HeadDim = 8,
            MaxPositions = 64,
            NormEps = 1e-5f,
            Rope = new RopeSpec(10000, null),
            RotaryDim = 8,
            Windows = new int[2],
            AttentionScale = 0.35f,
            TiedHead = true,
        };
        using var device = new Device(open());
        using DecoderModel model = ModelLoader.Load(device, config, new ModelInitialiser(config, 1, 0.3));
        using SvdAdapter adapter = SvdAdapter.Create(model, new SvdAdapterConfig { Rank = 4, RotateV = true, Rotation = RotationMethod.Cayley, Scale = ScaleMethod.Mult, TargetModules = ".*down_proj" });
        using var loss = new LossLayer("model.layers.0.mlp.down_proj", Tensor.From(device, Enumerable.Range(0, 16).Select(i => (i % 3) - 1f).ToArray(), 16, 1), null, null);
        using var optimiser = new AdamW(adapter.Parameters);
        var data = new PairData([new TokenPair([1, 2, 3, 4, 5], [1, 2, 3, 6, 7]), new TokenPair([8, 9, 10], [8, 11, 12])], 0);
        TokenBatch batch = data.Batch([0, 1]);
        var step = new ContrastiveStep(model, adapter, [loss], TrainConfig.FromProfile("recommended").Loss) { MeasureSeparationNorm = false };
        StepResult result = step.Run(batch, step.ComputeReference(batch), [-1, 1]);
        optimiser.ClipGradNorm(1);
        optimiser.Step(1e-2);
        optimiser.ZeroGrad();
        var generator = new Generator(model);
        int[][] made = generator.Generate([[1, 2, 3]], [1], new Repeng.Steering.Generation.Steering(adapter), new SamplingSettings { Sample = false }, 8, [], 0);
        Assert.Equal(device.Backend is CudaBackend ? 5 : 0, generator.ReplayedSteps);
        return (result.Total, made[0]);
    }

    private static CudaBackend Open(CudaDriver driver) => CudaBackend.Open(driver, CudaDevices.Find(driver).Choose());

    [Fact]
    public void AStepAndATextAreThoseOfTheCpu()
    {
        (double loss, int[] tokens) = Work(() => new Repeng.Kernels.Cpu.CpuBackend(1));
        using var emulator = new EmulatedCudaDriver();
        (double actual, int[] same) = Work(() => Open(emulator));
        Assert.Equal(loss, actual, 1e-5 * Math.Abs(loss));
        Assert.Equal(tokens, same);
        Assert.Equal("", emulator.Leaks());
    }

    /// <summary>The first, a middle and the last call of each function.</summary>
    [Fact]
    public void ACallOfEachFunctionMayFail()
    {
        string[] calls = Calls();
        FailAt([.. calls.Select((name, i) => (name, i)).GroupBy(c => c.name).SelectMany(g => g.Select(c => c.i).ToArray() is var at ? new[] { at[0], at[at.Length / 2], at[^1] } : []).Distinct().Order()]);
    }

    /// <summary>Every call, in parts that can be run one by one. Each takes minutes: run with -explicit only -trait Category=Long.</summary>
    [Theory(Explicit = true)]
    [Trait("Category", "Long")]
    [InlineData(0)]
    [InlineData(1)]
    [InlineData(2)]
    [InlineData(3)]
    [InlineData(4)]
    [InlineData(5)]
    [InlineData(6)]
    [InlineData(7)]
    public void EveryCallMayFail(int part) => FailAt([.. Enumerable.Range(0, Calls().Length).Where(i => i % 8 == part)]);

    private static string[] Calls()
    {
        using var emulator = new EmulatedCudaDriver();
        var whole = new FaultyCudaDriver(emulator) { Log = [] };
        Work(() => Open(whole));
        Assert.InRange(whole.Calls, 500, 100_000);
        return [.. whole.Log];
    }

    private static void FailAt(int[] places)
    {
        using var emulator = new EmulatedCudaDriver(new EmulatorOptions { CheckLeaks = false });
        List<string> wrong = [];
        foreach (int i in places)
        {
            var faulty = new FaultyCudaDriver(emulator) { FailAt = i, Failure = i % 2 == 0 ? CuResult.Unknown : CuResult.OutOfMemory };
            CudaException? e = null;
            try
            {
                Work(() => Open(faulty));
            }
            catch (CudaException caught)
            {
                e = caught;
            }
            string failed = faulty.Failed ?? "nothing";
            // Only what gives back may fail in silence: nobody could do anything about it, and the work is done.
            bool silent = s_givingBack.Contains(failed) || (failed == "cuCtxSetCurrent" && (faulty.Following is null || s_givingBack.Contains(faulty.Following)));
            if (e is null ? !silent : !e.Message.StartsWith($"CUDA: {failed}", StringComparison.Ordinal) || e.Message.Contains('\n', StringComparison.Ordinal))
                wrong.Add($"call {i}, {failed} (then {faulty.Following}): {e?.Message ?? "silence"}");
            if (emulator.Leaks() is { Length: > 0 } leaks)
            {
                wrong.Add($"call {i}, {failed}: left behind {leaks}");
                break;
            }
        }
        Assert.Empty(wrong);
    }

    [Fact]
    public void OutOfMemoryInTheMiddleOfAStepSaysWhatWasAskedAndLeavesNothing()
    {
        using var roomy = new EmulatedCudaDriver();
        long peak = 0;
        roomy.Device.LaunchCompleted = _ => peak = Math.Max(peak, roomy.Device.UsedBytes);
        Work(() => Open(roomy));
        int told = 0;
        foreach (double part in (double[])[0.1, 0.3, 0.5, 0.7, 0.9, 0.98])
        {
            using var small = new EmulatedCudaDriver(new EmulatorOptions { DeviceMemory = (long)(peak * part) });
            CudaException e = Assert.Throws<CudaException>(() => Work(() => Open(small)));
            Assert.Equal(CuResult.OutOfMemory, e.Result);
            Assert.Contains("more were asked", e.Message);
            Assert.Contains("are free of", e.Message);
            Assert.Contains("smaller batch", e.Message);
            Assert.Equal($"{part}: ", $"{part}: {small.Leaks()}");
            told++;
        }
        Assert.Equal(6, told);
    }

    [Fact]
    public void ALostDeviceEndsTheRunWithWhatHappenedFirst()
    {
        string[] calls = Calls();
        int[] launches = [.. calls.Select((name, i) => (name, i)).Where(c => c.name == "cuLaunchKernel").Select(c => c.i)];
        foreach (int i in (int[])[launches[0], launches[launches.Length / 2], launches[^1]])
        {
            using var emulator = new EmulatedCudaDriver(new EmulatorOptions { CheckLeaks = false });
            var faulty = new FaultyCudaDriver(emulator) { FailAt = i, Failure = CuResult.LaunchFailed };
            CudaException e = Assert.Throws<CudaException>(() => Work(() => Open(faulty)));
            Assert.True(e.DeviceLost);
            Assert.StartsWith("CUDA: cuLaunchKernel (", e.Message);
            Assert.Contains("train --resume", e.Message);
        }
    }

    [Theory]
    [InlineData("cuDevicePrimaryCtxRetain", CuResult.DeviceUnavailable, "another process has the device for itself")]
    [InlineData("cuModuleLoadDataEx", CuResult.UnsupportedPtxVersion, "a driver of CUDA 11.8 or newer")]
    [InlineData("cuInit", CuResult.NoDevice, "no NVIDIA GPU is visible to this process")]
    [InlineData("cuInit", CuResult.SystemDriverMismatch, "restart the machine after an update of the driver")]
    public void WhatTheMachineRefusesIsSaidWithWhatToDo(string function, CuResult result, string advice)
    {
        int at = Array.IndexOf(Calls(), function);
        using var emulator = new EmulatedCudaDriver();
        CudaException e = Assert.Throws<CudaException>(() => Work(() => Open(new FaultyCudaDriver(emulator) { FailAt = at, Failure = result })));
        Assert.StartsWith($"CUDA: {function}", e.Message);
        Assert.Contains(advice, e.Message);
        Assert.DoesNotContain('\n', e.Message);
        Assert.Equal("", emulator.Leaks());
    }
}
