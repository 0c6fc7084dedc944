using Repeng.Bench.Scaling;
using Repeng.Kernels;
using Repeng.Kernels.Quantised;
using Repeng.Runtime;
using Repeng.Runtime.Formats;
using Repeng.Steering.Adapters;
using Repeng.Steering.Data;
using Repeng.Steering.Losses;
using Repeng.Steering.Models;
using Repeng.Steering.Training;

namespace Repeng.Bench.Training;

/// <summary>One training problem, the same for both engines: base model, adapter, loss layers, a batch and the optimiser's numbers.</summary>
internal sealed class TrainCase : IDisposable
{
    public const double LearningRate = 1e-3, WeightDecay = 0.01, ClipNorm = 1;

    /// <summary>Coefficients of a step.</summary>
    public static readonly float[] Coefficients = [-1, 1];

    private readonly ModelBundle? _bundle;

    private TrainCase(ModelBundle? bundle, DecoderModel model, SvdAdapter adapter, LossLayer[] layers, ContrastiveLossConfig loss, TokenBatch batch, string name)
    {
        (_bundle, Model, Adapter, Layers, Loss, Batch, Name) = (bundle, model, adapter, layers, loss, batch, name);
    }

    public DecoderModel Model { get; }

    public SvdAdapter Adapter { get; }

    public LossLayer[] Layers { get; }

    public ContrastiveLossConfig Loss { get; }

    public TokenBatch Batch { get; }

    public string Name { get; }

    /// <param name="weights">How weights are held: f32; stored for a file; bf16 or nf4 for random weights, which are then rounded to bf16 first.</param>
    /// <param name="quantise">What random weights become in the place of <paramref name="weights"/>.</param>
    public static TrainCase Create(Device device, TrainBenchOptions options, string weights, Quantisation? quantise = null)
    {
        int pairs = options.Rows / 2;
        bool random = TrainShapes.Names.Contains(options.Model);
        ModelBundle? bundle = random ? null : ModelBundle.Load(device, options.Model, weights == "stored" ? WeightType.AsStored : WeightType.F32);
        DecoderModel model = bundle?.Model ?? Random(device, TrainShapes.Find(options.Model).Config, weights, quantise);
        var data = new PairData(bundle is null ? RandomPairs(model.Config, pairs, options.Tokens) : TextPairs(bundle, pairs, options.Tokens), bundle?.PadId ?? 0);
        TrainConfig recommended = TrainConfig.FromProfile("recommended");
        TrainConfig config = recommended with
        {
            BatchSize = options.Rows,
            Adapter = new SvdAdapterConfig
            {
                Rank = options.Rank,
                RotateU = true,
                RotateV = true,
                Rotation = RotationMethod.Cayley,
                Scale = ScaleMethod.Mult,
                TargetModules = options.Targets ?? TrainDefaults.For(model.Config, isDemo: false, quick: false).TargetModules,
            },
        };
        SvdAdapter adapter = SvdAdapter.Create(model, config.Adapter);
        LossLayer[] layers = TrainRun.MakeLossLayers(model, adapter, config, data, new TrainRunListener());
        TokenBatch batch = Widen(data.Batch([.. Enumerable.Range(0, pairs)]), options.Tokens, bundle?.PadId ?? 0);
        return new TrainCase(bundle, model, adapter, layers, config.Loss, batch, random ? TrainShapes.Find(options.Model).Name : Path.GetFileNameWithoutExtension(options.Model));
    }

    public void Dispose()
    {
        foreach (LossLayer layer in Layers)
            layer.Dispose();
        Adapter.Dispose();
        if (_bundle is not null)
            _bundle.Dispose();
        else
            Model.Dispose();
    }

    /// <summary>The peer's decoder knows llama alone; anything else is refused before it would compute something else.</summary>
    public void CheckPeer()
    {
        if (Model.Config is not { ModelType: "llama", Gated: true, QkvBias: false, OutputBias: false, MlpBias: false, TiedHead: true, Rope.Scaling: null })
            throw new UserErrorException($"{Model.Source}: the peer's decoder is written for llama models with tied embeddings, without biases and without rope scaling, not for this {Model.Config.ModelType}; take --engine ours");
    }

    private static DecoderModel Random(Device device, ModelConfig config, string weights, Quantisation? quantise)
    {
        if (weights == "nf4")
            quantise = new Quantisation(QuantisedForm.Nf4);
        using ITensorSource source = weights == "f32" ? new ModelInitialiser(config, seed: 1) : new RandomWeights(config);
        return ModelLoader.Load(device, config, source, new WeightStorage(Quantise: quantise));
    }

    // The honesty personas over the built-in statements, cut or padded to the length of the batch.
    public static List<TokenPair> TextPairs(ModelBundle bundle, int count, int tokens)
    {
        PersonaSet set = PersonaSets.Load("honesty");
        List<TextPair> texts = PairTexts.Make(bundle, set.Template, [.. set.Positive.Zip(set.Negative)], SuffixSets.Load("statements"));
        return PairTexts.Encode(bundle, PairTexts.Sample(texts, count, seed: 42, stream: 0), tokens);
    }

    // Lengths differ by a few tokens, as those of real pairs do, so that the padding mask counts.
    private static List<TokenPair> RandomPairs(ModelConfig config, int count, int tokens)
    {
        var draw = new Random(7);
        int[] Text() => [.. Enumerable.Range(0, Math.Max(3, tokens - draw.Next(8))).Select(_ => draw.Next(config.VocabSize))];
        return [.. Enumerable.Range(0, count).Select(_ => new TokenPair(Text(), Text()))];
    }

    // Pads on the left to the length that was asked for, where every text is shorter.
    private static TokenBatch Widen(TokenBatch batch, int length, int padId)
    {
        int more = length - batch.Length;
        int[] ids = [.. Enumerable.Range(0, batch.Batch).SelectMany(b => Enumerable.Repeat(padId, more).Concat(batch.Ids.Skip(b * batch.Length).Take(batch.Length)))];
        return new TokenBatch(batch.Batch, length, ids, [.. batch.Starts.Select(start => start + more)]);
    }
}
