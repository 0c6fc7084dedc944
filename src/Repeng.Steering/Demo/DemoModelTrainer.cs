using System.Diagnostics;
using System.Text.Json.Nodes;
using Repeng.Autograd;
using Repeng.Kernels;
using Repeng.Runtime;
using Repeng.Steering.Models;

namespace Repeng.Steering.Demo;

/// <summary>How the demo model is trained from scratch.</summary>
public sealed record DemoModelRecipe
{
    /// <summary>Blocks.</summary>
    public int Layers { get; init; } = 6;

    /// <summary>Width.</summary>
    public int Hidden { get; init; } = 160;

    /// <summary>Width of the MLP.</summary>
    public int Intermediate { get; init; } = 576;

    /// <summary>Query heads of 32.</summary>
    public int Heads { get; init; } = 5;

    /// <summary>Key and value heads of 32.</summary>
    public int KvHeads { get; init; } = 1;

    /// <summary>Texts a step.</summary>
    public int Batch { get; init; } = 24;

    /// <summary>Steps.</summary>
    public int Steps { get; init; } = 1000;

    /// <summary>Largest learning rate.</summary>
    public double LearningRate { get; init; } = 3e-3;

    /// <summary>Steps of linear warm-up; then a cosine down to a tenth.</summary>
    public int Warmup { get; init; } = 100;

    /// <summary>Decay of matrices.</summary>
    public double WeightDecay { get; init; } = 0.05;

    /// <summary>Largest norm of the gradient.</summary>
    public double ClipNorm { get; init; } = 1;

    /// <summary>Standard deviation of the first weights.</summary>
    public double InitStd { get; init; } = 0.08;

    /// <summary>Decay of the second moment.</summary>
    public double Beta2 { get; init; } = 0.98;

    /// <summary>Key of the first weights.</summary>
    public ulong Seed { get; init; } = 7;

    /// <summary>Texts that the model learns from.</summary>
    public DemoCorpusOptions Corpus { get; init; } = new()
    {
        TruthfulShare = 0.35,
        UntruthfulShare = 0.35,
        NeutralShare = 0.08,
        TruthfulLevel = 1,
        UntruthfulLevel = 0,
        DefaultLevel = 0.7,
        ValueWeight = 12,
    };

    /// <summary>
    /// First steps in which every speaker tells the truth. Facts are then worth 2 nats a value rather than half a nat, and
    /// are learned in a few hundred steps; who lies is learned on top.
    /// </summary>
    public int FactSteps { get; init; } = 200;

    /// <summary>Texts of the first steps.</summary>
    public DemoCorpusOptions FactCorpus => Corpus with { UntruthfulShare = 0, TruthfulLevel = 1, DefaultLevel = 1, GradedShare = 0 };

    /// <summary>config.json of the model.</summary>
    public JsonObject Config() => new()
    {
        ["architectures"] = new JsonArray("Qwen3ForCausalLM"),
        ["model_type"] = "qwen3",
        ["hidden_size"] = Hidden,
        ["intermediate_size"] = Intermediate,
        ["num_hidden_layers"] = Layers,
        ["num_attention_heads"] = Heads,
        ["num_key_value_heads"] = KvHeads,
        ["head_dim"] = 32,
        ["vocab_size"] = DemoVocabulary.Shared.Count,
        ["max_position_embeddings"] = DemoTokenizerFiles.MaxLength,
        ["rms_norm_eps"] = 1e-6,
        ["rope_theta"] = 10000.0,
        ["hidden_act"] = "silu",
        ["attention_bias"] = false,
        ["tie_word_embeddings"] = true,
        ["bos_token_id"] = DemoVocabulary.Shared.TurnStartId,
        ["eos_token_id"] = DemoVocabulary.Shared.TurnEndId,
        ["pad_token_id"] = DemoVocabulary.Shared.PadId,
        ["torch_dtype"] = "float32",
    };
}

/// <summary>Progress of the training: step, mean weighted loss since the last report, tokens so far, seconds.</summary>
public readonly record struct DemoModelProgress(int Step, double Loss, long Tokens, double Seconds);

/// <summary>Trains the demo model from scratch on the demo world's corpus; same recipe, same bits on the same kind of machine.</summary>
public static class DemoModelTrainer
{
    /// <summary>Runs the recipe; the caller owns the model.</summary>
    public static DecoderModel Train(Device device, DemoWorld world, DemoModelRecipe recipe, Action<DemoModelProgress>? report = null, int reportEvery = 50, CancellationToken stop = default)
    {
        ModelConfig config = Families.Read(new ConfigReader(recipe.Config(), "demo recipe"));
        using var weights = new ModelInitialiser(config, recipe.Seed, recipe.InitStd);
        DecoderModel model = ModelLoader.Load(device, config, weights);
        model.RequireGradients(true);
        var corpus = new DemoCorpus(world, recipe.Corpus);
        var facts = new DemoCorpus(world, recipe.FactCorpus);
        using var optimiser = new AdamW([.. model.Parameters.Values], 0.9, recipe.Beta2, 1e-8, recipe.WeightDecay) { NoDecay = p => p.Shape.Length == 1 };
        int length = recipe.Corpus.MaxLength;
        var ids = new int[recipe.Batch * length];
        var w = new float[recipe.Batch * length];
        var watch = Stopwatch.StartNew();
        double sum = 0;
        long tokens = 0;
        for (int step = 0; step < recipe.Steps; step++)
        {
            stop.ThrowIfCancellationRequested();
            int longest = (step < recipe.FactSteps ? facts : corpus).FillBatch((ulong)step * (ulong)recipe.Batch, recipe.Batch, length, ids, w);
            tokens += (long)recipe.Batch * longest;
            sum += Step(model, recipe.Batch, length, longest, ids, w);
            optimiser.ClipGradNorm(recipe.ClipNorm);
            optimiser.Step(Rate(recipe, step));
            optimiser.ZeroGrad();
            if ((step + 1) % reportEvery == 0 || step + 1 == recipe.Steps)
            {
                int since = (step + 1) % reportEvery == 0 ? reportEvery : (step + 1) % reportEvery;
                report?.Invoke(new DemoModelProgress(step + 1, sum / since, tokens, watch.Elapsed.TotalSeconds));
                sum = 0;
            }
        }
        model.RequireGradients(false);
        return model;
    }

    private static double Rate(DemoModelRecipe recipe, int step)
    {
        if (step < recipe.Warmup)
            return recipe.LearningRate * (step + 1) / recipe.Warmup;
        double t = (double)(step - recipe.Warmup) / Math.Max(1, recipe.Steps - recipe.Warmup);
        return recipe.LearningRate * (0.1 + 0.9 * 0.5 * (1 + Math.Cos(Math.PI * t)));
    }

    // Texts are padded on the right, where the causal mask keeps padding out of every real token's sight.
    private static double Step(DecoderModel model, int rows, int stride, int length, int[] ids, float[] weights)
    {
        var batch = new int[rows * length];
        var index = new List<int>();
        var labels = new List<int>();
        var w = new List<float>();
        for (int b = 0; b < rows; b++)
            for (int t = 0; t < length; t++)
            {
                batch[b * length + t] = ids[b * stride + t];
                float weight = t + 1 < length ? weights[b * stride + t + 1] : 0;
                if (weight == 0)
                    continue;
                index.Add(b * length + t);
                labels.Add(ids[b * stride + t + 1]);
                w.Add(weight);
            }
        float total = w.Sum();
        using var tape = new Tape(model.Device);
        Tensor hidden = model.Forward(new ForwardContext(tape, new TokenBatch(rows, length, batch, new int[rows])));
        Tensor logProb = tape.LabelLogProb(tape.GatherRows(hidden, tape.New(index.ToArray(), index.Count)), model.Head, tape.New(labels.ToArray(), labels.Count)).LogProb;
        Tensor loss = tape.Sum(tape.Multiply(logProb, tape.Constant([.. w.Select(x => -x / total)], w.Count)));
        double value = loss.Item();
        if (!double.IsFinite(value))
            throw new UserErrorException($"the loss of the demo model became {value}; lower the learning rate");
        tape.Backward(loss);
        return value;
    }
}
