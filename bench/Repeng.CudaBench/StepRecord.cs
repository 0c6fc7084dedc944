using Repeng.Autograd;
using Repeng.Kernels;
using Repeng.Kernels.Cuda;
using Repeng.Runtime;
using Repeng.Runtime.Formats;
using Repeng.Steering.Adapters;
using Repeng.Steering.Losses;
using Repeng.Steering.Models;
using Repeng.Steering.Training;

namespace Repeng.CudaBench;

/// <summary>What a training step of Qwen3-4B is made of.</summary>
/// <param name="Rows">Texts of a batch; two make a pair.</param>
/// <param name="Tokens">Tokens of a text.</param>
/// <param name="Rank">Rank of the adapter.</param>
/// <param name="Targets">Adapted modules.</param>
/// <param name="Reference">Whether the base model's pass is part of the step.</param>
/// <param name="Storage">How weights are held.</param>
/// <param name="Precision">How exact products of layers are.</param>
/// <param name="Library">Whether cuBLASLt is found.</param>
/// <param name="Own">Tokens at the end of each text that no other has; what is before them is one of two beginnings, one of the positive texts and one of the negative ones.</param>
internal sealed record StepShape(int Rows, int Tokens, int Rank, string Targets, bool Reference, WeightStorage Storage, CudaPrecision Precision, bool Library, int Own);

/// <summary>The launches of one step, each kind with how often it happens in all 36 blocks.</summary>
internal sealed record StepRecord(IReadOnlyList<(RecordedLaunch Launch, double Count)> Launches, double MovedBytes, double Moves, long DecodedBytes)
{
    public const int Blocks = 36;

    /// <summary>Qwen3-4B, as its config.json describes it.</summary>
    public static ModelConfig Qwen3(int blocks) => new()
    {
        ModelType = "qwen3",
        VocabSize = 151936,
        HiddenSize = 2560,
        IntermediateSize = 9728,
        NumLayers = blocks,
        NumHeads = 32,
        NumKvHeads = 8,
        HeadDim = 128,
        MaxPositions = 40960,
        NormEps = 1e-6f,
        QkNorm = QkNormKind.PerHead,
        Rope = new RopeSpec(1_000_000, null),
        RotaryDim = 128,
        Windows = new int[blocks],
        AttentionScale = 1 / MathF.Sqrt(128),
        TiedHead = true,
    };

    /// <summary>Runs the engine's own step over a driver that runs nothing. All blocks, as launches over all adapted layers depend on their number.</summary>
    public static StepRecord Of(StepShape shape)
    {
        (Dictionary<string, (RecordedLaunch Launch, int Count)> counts, double bytes, int moves, long decoded) = Record(shape, Blocks);
        return new StepRecord([.. counts.Values.Select(c => (c.Launch, (double)c.Count))], bytes, moves, decoded);
    }

    private static (Dictionary<string, (RecordedLaunch Launch, int Count)>, double Bytes, int Moves, long Decoded) Record(StepShape shape, int blocks)
    {
        using var driver = new RecordingDriver();
        using var device = new Device(CudaBackend.Open(driver, CudaDevices.Find(driver).Choose(), shape.Library ? new CudaLibraries(driver.Library()) : CudaLibraries.None, shape.Precision));
        ModelConfig config = Qwen3(blocks);
        using DecoderModel model = ModelLoader.Load(device, config, new ShapesOnly(new ModelInitialiser(config, 1)), shape.Storage);
        TrainConfig train = TrainConfig.FromProfile("recommended");
        using SvdAdapter adapter = SvdAdapter.Create(model, new SvdAdapterConfig { Rank = shape.Rank, RotateU = true, RotateV = true, Rotation = RotationMethod.Cayley, Scale = ScaleMethod.Mult, TargetModules = shape.Targets });
        LossLayer[] layers = [.. LossLayers.Select(model, adapter.Modules).Select(name =>
        {
            int outputs = model.Linears[name].Outputs;
            return new LossLayer(name, new Tensor(device, DType.F32, outputs, 1), null, new Tensor(device, DType.F32, outputs, shape.Rank));
        })];
        using var optimiser = new AdamW(adapter.Parameters);
        var draw = new Random(7);
        int[] positive = Draw(shape.Tokens - shape.Own), negative = Draw(shape.Tokens - shape.Own);
        var data = new PairData([.. Enumerable.Range(0, shape.Rows / 2).Select(_ => new TokenPair([.. positive, .. Draw(shape.Own)], [.. negative, .. Draw(shape.Own)]))], 0);
        TokenBatch batch = data.Batch([.. Enumerable.Range(0, shape.Rows / 2)]);
        var step = new ContrastiveStep(model, adapter, layers, train.Loss);
        Reference reference = step.ComputeReference(batch);
        Step();
        driver.Launches.Clear();
        (driver.MovedBytes, driver.Moves) = (0, 0);
        if (shape.Reference)
            reference = step.ComputeReference(batch);
        Step();
        foreach (LossLayer layer in layers)
            layer.Dispose();
        Dictionary<string, (RecordedLaunch Launch, int Count)> counts = [];
        foreach (RecordedLaunch launch in driver.Launches)
            counts[launch.Signature] = (launch, counts.TryGetValue(launch.Signature, out var c) ? c.Count + 1 : 1);
        return (counts, driver.MovedBytes, driver.Moves, ((CudaBackend)device.Backend).DecodedBytes);

        void Step()
        {
            step.Run(batch, reference, [-1, 1]);
            optimiser.ClipGradNorm(1);
            optimiser.Step(1e-3);
            optimiser.ZeroGrad();
        }

        int[] Draw(int count) => [.. Enumerable.Range(0, count).Select(_ => draw.Next(config.VocabSize))];
    }

    /// <summary>Names and shapes of another source as bf16 zeros.</summary>
    private sealed unsafe class ShapesOnly(ITensorSource inner) : ITensorSource
    {
        public string Description => "shapes of Qwen3-4B";

        public IReadOnlyList<string> Names => inner.Names;

        public bool TryGetInfo(string name, out TensorInfo info)
        {
            bool there = inner.TryGetInfo(name, out info);
            info = info with { Type = "BF16", Bytes = 2 * info.Elements };
            return there;
        }

        public void ReadF32(string name, long firstRow, long rows, float* destination) => new Span<float>(destination, checked((int)(rows * Row(name)))).Clear();

        public void ReadRaw(string name, long firstRow, long rows, byte* destination) => new Span<byte>(destination, checked((int)(2 * rows * Row(name)))).Clear();

        public bool TryMap(string name, out MappedBytes bytes)
        {
            bytes = default;
            return false;
        }

        public PackedTensor? Packed(string name) => null;

        public void Dispose() => inner.Dispose();

        private long Row(string name) => inner.TryGetInfo(name, out TensorInfo info) ? info.Elements / info.Shape[0] : 0;
    }
}
