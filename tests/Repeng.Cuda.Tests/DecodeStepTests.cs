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

/// <summary>Decoding steps that are recorded once and run for every token: the logits of passes that are queued op by op, to the bit, whatever steers them and whatever moves in between.</summary>
[Trait("Category", "Golden")]
[Trait("Golden", "models")]
public sealed class DecodeStepTests
{
    private const int Before = 2, Steps = 8;
    private const string Plain = "plain weights";

    public static IEnumerable<TheoryDataRow<string, string>> Models =>
        from row in GoldenFiles.Folders("models", "config.json")
        from backend in Backends.Names
        where backend != "cpu"
        select new TheoryDataRow<string, string>(row.Data, backend);

    /// <summary>Greedy steps of the same tokens by both ways; logits of each step must have the same bits. Gives what the recorded way said of itself.</summary>
    private static (int Replayed, int Recorded) SameBits(DecoderModel model, Steered steering, int[][] prompts, float[] coefficients, int count, Func<IAdapterPass?, IAdapterPass?>? wrap = null, Action<int>? between = null)
    {
        Device device = model.Device;
        TokenBatch batch = TokenBatch.Pad(prompts, 0);
        using KvCache plain = new(device, model.Config, batch.Batch, batch.Length + count, batch.Starts), recorded = new(device, model.Config, batch.Batch, batch.Length + count, batch.Starts);
        using var tape = new Tape(device, record: false);
        IAdapterPass? first = steering.Adapter?.Pass(tape, coefficients, batch.Length), pass = steering.Adapter?.Pass(tape, coefficients, 1);
        pass = wrap is null ? pass : wrap(pass);
        float[] logits = Prompt(plain);
        Assert.Equal(logits, Prompt(recorded));
        int[] ids = Largest(logits);
        using var steps = new DecodeSteps(model, steering, coefficients, recorded);
        for (int step = 0; step < count; step++)
        {
            between?.Invoke(step);
            long run = model.TokensRun;
            using var one = new Tape(device, record: false);
            ForwardContext context = steering.Context(one, new TokenBatch(batch.Batch, 1, ids, batch.Starts), coefficients, plain, pass);
            float[] expected = model.Logits(context, model.Forward(context)).ToArray();
            long each = model.TokensRun - run;
            float[] actual = steps.Next(ids, pass, count - step).ToArray();
            Assert.Equal(2 * each, model.TokensRun - run);
            Assert.True(expected.AsSpan().SequenceEqual(actual), $"step {step} of {count}: logits differ");
            Assert.Equal(plain.Length, recorded.Length);
            ids = Largest(expected);
        }
        return (steps.Replayed, steps.Recorded);

        float[] Prompt(KvCache cache)
        {
            ForwardContext context = steering.Context(tape, batch, coefficients, cache, first);
            return model.Logits(context, model.Forward(context), [.. Enumerable.Range(1, batch.Batch).Select(b => (b * batch.Length) - 1)]).ToArray();
        }

        int[] Largest(float[] all) => [.. Enumerable.Range(0, batch.Batch).Select(b => Array.IndexOf(all, all.Skip(b * model.Config.VocabSize).Take(model.Config.VocabSize).Max(), b * model.Config.VocabSize) - (b * model.Config.VocabSize))];
    }

    internal static ModelConfig Small(int layers, int positions, int heads = 2, int headDim = 8, int window = 0) => new()
    {
        ModelType = "qwen3",
        VocabSize = 40,
        HiddenSize = 16,
        IntermediateSize = 24,
        NumLayers = layers,
        NumHeads = heads,
        NumKvHeads = 1,
        HeadDim = headDim,
        MaxPositions = positions,
        NormEps = 1e-5f,
        Rope = new RopeSpec(10000, null),
        LocalRope = window > 0 ? new RopeSpec(10000, null) : null,
        RotaryDim = headDim,
        Windows = [.. Enumerable.Range(0, layers).Select(l => l % 2 == 1 ? window : 0)],
        AttentionScale = 0.35f,
        QkNorm = QkNormKind.PerHead,
        TiedHead = true,
    };

    internal static DecoderModel Load(Device device, ModelConfig config) => ModelLoader.Load(device, config, new ModelInitialiser(config, 1, 0.3));

    internal static int[] Text(int length, int seed) => [.. Enumerable.Range(0, length).Select(i => (i * 7 + (i * i % 11) + seed) % 40)];

    [Theory, MemberData(nameof(Models))]
    public void EveryFamilyHasTheSameBits(string name, string backend)
    {
        string folder = Golden.Require("models", name);
        using var device = new Device(Backends.Create(backend));
        using DecoderModel model = GoldenFiles.Load(device, folder);
        using ITensorSource expected = SafetensorsFile.Open(Path.Combine(folder, "expected.safetensors"));
        TokenBatch tokens = GoldenFiles.Batch(expected);
        bool can = DecodeSteps.CanRun(model, Steered.None);
        // The host hands experts their rows.
        Assert.Equal(model.Blocks.All(b => b.Experts is null), can);
        if (can)
            Assert.Equal((Steps - Before, 1), SameBits(model, Steered.None, [.. Enumerable.Range(0, tokens.Batch).Select(tokens.Row)], new float[tokens.Batch], Steps));
    }

    public static IEnumerable<TheoryDataRow<string>> PackedModels => [.. GoldenFiles.Folders("nf4", "config.json"), new(Plain)];

    /// <summary>Packed and plain weights, so many rows that products round their operands in bf16, and decode weights and round activations in scratch.</summary>
    [Theory, MemberData(nameof(PackedModels))]
    public void RoundedProductsHaveTheSameBits(string name)
    {
        string? path = name == Plain ? null : Golden.Require("nf4", name);
        foreach (CudaPrecision precision in Enum.GetValues<CudaPrecision>())
        {
            using var device = new Device(Backends.Create("emulator", precision: precision));
            using DecoderModel model = path is null ? Load(device, Small(2, 64)) : LoadPacked(device, path);
            Assert.Equal((Steps - Before, 1), SameBits(model, Steered.None, [.. Enumerable.Range(0, 9).Select(b => Text(4 + (b % 3), b))], new float[9], Steps));
        }
    }

    /// <summary>Steps of so many rows that products go to cuBLASLt: recorded with it where the library can be captured, as the real one can; else queued op by op.</summary>
    [Theory]
    [InlineData(true)]
    [InlineData(false)]
    public unsafe void StepsWhoseProductsGoToTheLibraryHaveTheSameBits(bool captured)
    {
        const int Rows = 64;
        nint module;
        using var driver = new EmulatedCudaDriver();
        using (CudaBackend kernels = CudaBackend.Open(driver, CudaDevices.Find(driver).Choose(), CudaLibraries.None, CudaPrecision.Bf16))
        {
            byte[] image = [.. KernelImages.Read("rounded"), 0];
            fixed (byte* text = image)
                Assert.Equal(CuResult.Success, driver.ModuleLoadDataEx(out module, text, 0, null, null));
            Assert.Equal(CuResult.Success, driver.ModuleGetFunction(out nint nt, module, "matmul_rounded_nt_64x64"));
            int queued = 0;
            // What it computes at once waits for the stream, which cannot be while it is captured.
            var library = new FakeCublasLt(driver) { Queue = captured ? Queue : null };
            using (var device = new Device(CudaBackend.Open(driver, CudaDevices.Find(driver).Choose(), new CudaLibraries(library), CudaPrecision.Bf16, 0)))
            {
                using DecoderModel model = Load(device, Small(1, 32) with { HiddenSize = 64, IntermediateSize = 72, NumHeads = 8 });
                (int, int) counts = SameBits(model, Steered.None, [.. Enumerable.Range(0, Rows).Select(b => Text(2 + (b % 2), b))], new float[Rows], 5);
                Assert.Equal(captured ? (5 - Before, 1) : (0, 0), counts);
                Assert.NotEmpty(library.Products);
                Assert.Equal(captured ? library.Products.Count : 0, queued);
            }
            Assert.Equal(0, library.Live);
            kernels.Context.Synchronize();
            Assert.Equal(CuResult.Success, driver.ModuleUnload(module));

            // Row-major, B is the library's first operand.
            void Queue(FakeCublasLt.LtProduct p, FakeCublasLt.LtOperands o)
            {
                queued++;
                Assert.True(p is { TransA: true, TransB: false, Type: CudaDataType.R16BF });
                var q = new MatMulKernelTests.Params
                {
                    A = (ulong)o.B,
                    B = (ulong)o.A,
                    C = (ulong)o.C,
                    M = (int)p.Columns,
                    N = (int)p.Rows,
                    K = (int)p.Depth,
                    LdA = (int)o.LdB,
                    LdB = (int)o.LdA,
                    LdC = (int)o.LdC,
                    Accumulate = p.Adds ? 1 : 0,
                    Summed = 1,
                    Halves = p.Result == p.Type ? 1 : 0,
                };
                void* argument = &q;
                Assert.Equal(CuResult.Success, driver.LaunchKernel(nt, new((uint)(Gpu.Ceil(q.M, 64) * Gpu.Ceil(q.N, 64))), new(128), 32768, o.Stream, &argument));
            }
        }
        Assert.Equal("", driver.Leaks());
    }

    private static DecoderModel LoadPacked(Device device, string path)
    {
        (ModelConfig config, ITensorSource tensors, _) = ModelBundle.OpenConfig(path);
        using ITensorSource source = tensors;
        return ModelLoader.Load(device, config, source);
    }

    /// <summary>Lengths on both sides of the keys from which attention goes by stretches, with room for more; heads of every size that kernels are made for; a window.</summary>
    [Theory]
    [InlineData(8, 0, 251, 10)]
    [InlineData(64, 40, 251, 10)]
    [InlineData(128, 0, 254, 7)]
    [InlineData(160, 300, 254, 7)]
    [InlineData(8, 20, 509, 7)]
    public void AnyLengthHasTheSameBits(int headDim, int window, int prompt, int count)
    {
        using var device = new Device(Backends.Create("emulator"));
        using DecoderModel model = Load(device, Small(2, 1024, headDim: headDim, window: window));
        Assert.Equal((count - Before, 1), SameBits(model, Steered.None, [Text(prompt, 1), Text(prompt - 9, 2)], new float[2], count));
    }

    public static TheoryData<string> Kinds() => [.. PeftSettings.Kinds, "svd", "vector", "vector of the same length"];

    [Theory, MemberData(nameof(Kinds))]
    public void WhateverSteersTheBitsAreTheSame(string kind)
    {
        using var device = new Device(Backends.Create("emulator"));
        using DecoderModel model = Load(device, Small(2, 64));
        const string Targets = @".*\.(q_proj|down_proj)";
        int[][] prompts = [Text(5, 1), Text(3, 2), Text(4, 3)];
        float[] coefficients = [1, 0, -0.5f];
        if (kind.StartsWith("vector", StringComparison.Ordinal))
        {
            var vector = new ControlVector("qwen3", [KeyValuePair.Create("0", new Direction(Values(16))), KeyValuePair.Create("lm_head", new Direction(Values(40))), KeyValuePair.Create("model.layers.1.mlp.up_proj", new Direction(Values(24)))]);
            using var control = new VectorControl(model, vector, normalize: kind != "vector");
            Assert.Equal((Steps - Before, 1), SameBits(model, new Steered(Vector: control), prompts, coefficients, Steps));
            return;
        }
        using Repeng.Steering.Adapters.IAdapter adapter = kind == "svd"
            ? Repeng.Steering.Adapters.SvdAdapter.Create(model, new() { Rank = 4, RotateV = true, Scale = Repeng.Steering.Adapters.ScaleMethod.Mult, TargetModules = Targets })
            : PeftFactory.Create(model, new PeftSettings { Kind = kind, Rank = 2, TargetModules = Targets, InitNoise = 0.2, GroupSize = 4 });
        (int replayed, int recorded) = SameBits(model, new Steered(adapter), prompts, coefficients, Steps);
        Assert.Equal((Steps - Before, 1), (replayed, recorded));

        static float[] Values(int n) => [.. Enumerable.Range(0, n).Select(i => 0.2f * ((i % 5) - 2))];
    }

    /// <summary>Scratch that grows, and tables that are made anew, between two tokens.</summary>
    [Fact]
    public void WhatMovesIsRecordedAnew()
    {
        using var device = new Device(Backends.Create("emulator"));
        var backend = (CudaBackend)device.Backend;
        using DecoderModel model = Load(device, Small(1, 2000));
        // Attention by stretches has scratch from the start.
        (int, int) counts = SameBits(model, Steered.None, [Text(260, 1)], [0], 14, between: step =>
        {
            if (step == 4)
            {
                long moves = backend.Moves;
                using var memory = new TestMemory(backend);
                const int Wide = 600_000;
                View x = memory.Zeros(Wide);
                backend.LayerNormForward(memory.Zeros(Wide), memory.Zeros(1), memory.Zeros(1), x, x, default, 1, Wide, 1e-5f);
                Assert.True(backend.Moves > moves, "the scratch did not move");
            }
            if (step == 9)
            {
                int made = model.RopeTablesMade;
                using var tape = new Tape(device, record: false);
                model.Forward(new ForwardContext(tape, TokenBatch.Pad([Text(600, 3)], 0)) { LastBlock = 0 });
                Assert.True(model.RopeTablesMade > made, "the tables are the same");
            }
        });
        // Each time a step is queued op by op first; the one after it takes no memory, so that the next is recorded.
        Assert.Equal(3, counts.Item2);
        Assert.InRange(counts.Item1, 6, 10);
    }

    /// <summary>An adapter that looks at its layer's input in the middle of a step cannot be recorded, and generates as ever.</summary>
    [Fact]
    public void WhatWaitsForTheDeviceIsQueuedOpByOp()
    {
        using var driver = new EmulatedCudaDriver();
        using (var device = new Device(CudaBackend.Open(driver, CudaDevices.Find(driver).Choose())))
        {
            using DecoderModel model = Load(device, Small(2, 64));
            Assert.Equal((0, 0), SameBits(model, Steered.None, [Text(5, 1)], [0], Steps, wrap: _ => new Looking()));
            // The stream is as before.
            Assert.Equal((Steps - Before, 1), SameBits(model, Steered.None, [Text(5, 1)], [0], Steps));
            using var control = new VectorControl(model, new ControlVector("qwen3", [KeyValuePair.Create("0", new Direction(new float[16]))]), operation: (tape, y, _) => y);
            Assert.False(DecodeSteps.CanRun(model, new Steered(Vector: control)));
        }
        Assert.Equal("", driver.Leaks());
    }

    private sealed class Looking : IAdapterPass
    {
        public bool RequiresGrad => false;

        public LowRankTerm? Term(string module) => null;

        public bool Touches(int block) => block == 1;

        public Tensor? Output(Tape tape, LinearModule module, Tensor x, int[]? tokens = null) => module.Path.EndsWith("down_proj", StringComparison.Ordinal) && float.IsNaN(x.ToArray()[0]) ? x : null;
    }

    [Fact]
    public void WhatCannotBeRecordedIsSaidAndLeavesTheStreamAsItWas()
    {
        using var driver = new EmulatedCudaDriver();
        using (CudaBackend backend = CudaBackend.Open(driver, CudaDevices.Find(driver).Choose()))
        using (var memory = new TestMemory(backend))
        {
            View x = memory.Of([1f, 2, 3, 4]), y = memory.Zeros(4);
            foreach ((string what, Action act) in new (string, Action)[]
            {
                ("a download cannot be recorded", () => memory.Read(x)),
                ("waiting for the device cannot be recorded", backend.Context.Synchronize),
                ("an allocation cannot be recorded", () => backend.Allocate(64)),
                ("freeing memory cannot be recorded", () => backend.Free(x.Address, 16)),
                ("a recording cannot be recorded", () => backend.Record(() => { }, 0)),
                ("an upload of 16 bytes beside 0 in room for 0 cannot be recorded", () => backend.Upload(x, new byte[16])),
            })
                Assert.Equal(what, Assert.Throws<NotRecordableException>(() => backend.Record(act, 0)).Message);
            Assert.Equal([1, 2, 3, 4], memory.Read(x));
            // What is uploaded within is uploaded each time. Kernels are loaded before.
            backend.AddScaled(y, x, 4, 0);
            byte[] bytes = [.. BitConverter.GetBytes(5f), .. BitConverter.GetBytes(6f), .. BitConverter.GetBytes(7f), .. BitConverter.GetBytes(8f)];
            using (IRecordedWork work = backend.Record(() =>
            {
                backend.Upload(x, bytes);
                backend.AddScaled(y, x, 4, 1);
                backend.Fill(x, 0);
            }, IRecording.UploadUnit))
            {
                Array.Clear(bytes);
                Assert.Equal([1, 2, 3, 4], memory.Read(x));
                work.Run();
                work.Run();
                Assert.Equal([10, 12, 14, 16], memory.Read(y));
            }
        }
        Assert.Equal("", driver.Leaks());
    }

    [Theory]
    [InlineData(1, 4)]
    [InlineData(3, 7)]
    public void ARowIsAppendedBehindThoseOfTheCache(int batch, int width)
    {
        using IBackend backend = Backends.Create("emulator");
        using var memory = new TestMemory(backend);
        const int Capacity = 5;
        float[] k = Gpu.Random(batch * width, 1).Select(x => (float)x).ToArray(), v = Gpu.Random(batch * width, 2).Select(x => (float)x).ToArray();
        foreach (int length in (int[])[0, 3, Capacity - 1])
        {
            View keys = memory.Zeros(batch * Capacity * width), values = memory.Zeros(batch * Capacity * width);
            ((IRecording)backend).AppendToCache(keys, values, memory.Of(k.AsSpan()), memory.Of(v.AsSpan()), memory.Of([length]), batch, Capacity, width);
            Assert.Equal(Expected(k), memory.Read(keys));
            Assert.Equal(Expected(v), memory.Read(values));

            float[] Expected(float[] rows)
            {
                var all = new float[batch * Capacity * width];
                for (int b = 0; b < batch; b++)
                    rows.AsSpan(b * width, width).CopyTo(all.AsSpan(((b * Capacity) + length) * width));
                return all;
            }
        }
    }

    /// <summary>The generator with recorded steps and without: the same tokens for every way of choosing, rows that end early among them.</summary>
    [Fact]
    public void TheGeneratorGivesTheSameTokens()
    {
        using var device = new Device(Backends.Create("emulator"));
        using DecoderModel model = Load(device, Small(2, 64));
        int[][] prompts = [Text(5, 1), Text(3, 2), Text(9, 4)];
        foreach (SamplingSettings settings in new SamplingSettings[] { new() { Sample = false }, new() { RepetitionPenalty = 1.3f }, new() { Sample = true, Seed = 3, Temperature = 1.5f, TopK = 20 } })
        {
            var recording = new Generator(model);
            int[][] expected = new Generator(model) { RecordSteps = false }.Generate(prompts, new float[3], Steered.None, settings, 12, []);
            Assert.Equal(expected, recording.Generate(prompts, new float[3], Steered.None, settings, 12, []));
            Assert.Equal((9, 1), (recording.ReplayedSteps, recording.RecordedSteps));
            // A token of the middle ends rows.
            int[] stops = [expected[0][4]];
            Assert.Equal(new Generator(model) { RecordSteps = false }.Generate(prompts, new float[3], Steered.None, settings, 12, stops), recording.Generate(prompts, new float[3], Steered.None, settings, 12, stops));
        }
        // Nothing is recorded for a few tokens.
        var few = new Generator(model);
        few.Generate(prompts, new float[3], Steered.None, new SamplingSettings(), 5, []);
        Assert.Equal((0, 0), (few.ReplayedSteps, few.RecordedSteps));
    }

    /// <summary>What is asked of the driver for a token, of one row and of four, in a model with 36 blocks as Qwen3-4B's.</summary>
    [Fact]
    public void ATokenIsAFewCalls()
    {
        foreach ((int rows, int kernels, int copies) in new[] { (1, 616, 72), (4, 616, 288) })
        {
            Dictionary<string, int> without = Calls(rows, false), with = Calls(rows, true);
            TestContext.Current.TestOutputHelper?.WriteLine($"{rows} rows without: {string.Join(", ", without.Select(c => $"{c.Key} {c.Value}"))}; with: {string.Join(", ", with.Select(c => $"{c.Key} {c.Value}"))}");
            Assert.Equal(16, with.Values.Sum());
            Assert.Equal(1, with["cuGraphLaunch"]);
            Assert.Equal(1, with["cuLaunchKernel"]);
            Assert.Equal(kernels, without["cuLaunchKernel"]);
            Assert.Equal(copies, without["cuMemcpyDtoDAsync"]);
        }

        // Calls of one token more.
        static Dictionary<string, int> Calls(int rows, bool record)
        {
            Dictionary<string, int> few = Count(8), more = Count(9);
            return more.ToDictionary(c => c.Key, c => c.Value - few.GetValueOrDefault(c.Key)).Where(c => c.Value != 0).ToDictionary();

            Dictionary<string, int> Count(int tokens)
            {
                using var emulator = new EmulatedCudaDriver(new() { CheckGlobalRaces = false, CheckSharedRaces = false, CheckInitialization = false });
                var counted = new FaultyCudaDriver(emulator) { Log = [] };
                using var device = new Device(CudaBackend.Open(counted, CudaDevices.Find(counted).Choose()));
                using DecoderModel model = Load(device, Small(36, 64));
                int from = counted.Log.Count;
                new Generator(model) { RecordSteps = record }.Generate([.. Enumerable.Repeat(Text(4, 1), rows)], new float[rows], Steered.None, new SamplingSettings { Sample = false }, tokens, []);
                return counted.Log.Skip(from).CountBy(name => name).ToDictionary();
            }
        }
    }
}
