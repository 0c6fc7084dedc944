using System.Text.Json.Nodes;
using Repeng.Autograd;
using Repeng.Runtime;
using Repeng.Steering.Adapters;
using Repeng.Steering.Losses;
using Repeng.Steering.Models;
using Repeng.Steering.Training;

namespace Repeng.Steering.Tests.Training;

/// <summary>Tests that count what the whole process does; nothing runs beside them.</summary>
[CollectionDefinition(Name, DisableParallelization = true)]
public sealed class Alone
{
    public const string Name = "alone";
}

/// <summary>What a training step leaves to the garbage collector.</summary>
[Collection(Alone.Name)]
public sealed class StepAllocationTests
{
    /// <summary>
    /// Blocks, rows and tokens are those of SmolLM2-135M and its training; only widths are small, and no object of a step has the size of a width.
    /// What a step allocates are its tensors and nodes, some 3,000 each, and the indices of its rows: about 1.5 MB, its rows sharing most of their tokens; a fraction of what .NET lets
    /// pass before it collects the youngest generation where the processor has a third-level cache of some megabytes.
    /// </summary>
    [Fact]
    public void A_step_sets_off_no_collection()
    {
        const int Rows = 14, Length = 64;
        ModelConfig config = Families.Read(new ConfigReader(new JsonObject
        {
            ["model_type"] = "llama",
            ["hidden_size"] = 32,
            ["intermediate_size"] = 48,
            ["num_hidden_layers"] = 30,
            ["num_attention_heads"] = 2,
            ["num_key_value_heads"] = 1,
            ["vocab_size"] = 128,
            ["max_position_embeddings"] = 128,
            ["tie_word_embeddings"] = true,
        }, "test"));
        using Device device = Device.Cpu(2);
        using var weights = new ModelInitialiser(config, seed: 1, std: 0.1);
        using DecoderModel model = ModelLoader.Load(device, config, weights);
        TrainConfig settings = TrainConfig.FromProfile("recommended");
        using SvdAdapter adapter = SvdAdapter.Create(model, settings.Adapter with { Rank = 4, RotateU = true, TargetModules = TrainDefaults.For(config, isDemo: false, quick: false).TargetModules });
        int[] ids = [.. Enumerable.Range(0, Rows * Length).Select(i => i * 7 % 128)];
        var batch = new TokenBatch(Rows, Length, ids, [.. Enumerable.Range(0, Rows).Select(i => i % 3)]);
        LossLayer[] layers = [.. LossLayers.Select(model, adapter.Modules).Select(name => LossLayers.OnFullBasis(model, name, [.. Enumerable.Range(0, model.Linears[name].Outputs).Select(i => 1f + i % 2)]))];
        var step = new ContrastiveStep(model, adapter, layers, settings.Loss);
        using var optimiser = new AdamW(adapter.Parameters, weightDecay: settings.WeightDecay);
        Reference reference = step.ComputeReference(batch);
        long least = long.MaxValue;
        int collections = int.MaxValue;
        for (int i = 0; i < 5; i++)
        {
            GC.Collect();
            int collected = GC.CollectionCount(0);
            long before = GC.GetAllocatedBytesForCurrentThread();
            step.Run(batch, reference, [-1, 1]);
            optimiser.ClipGradNorm(settings.ClipNorm);
            optimiser.Step(1e-3);
            optimiser.ZeroGrad();
            least = Math.Min(least, GC.GetAllocatedBytesForCurrentThread() - before);
            collections = Math.Min(collections, GC.CollectionCount(0) - collected);
        }
        foreach (LossLayer layer in layers)
            layer.Dispose();
        Assert.True(least < 2_000_000, $"a step allocates {least} bytes");
        Assert.True(collections == 0, $"{collections} collections in a step that allocates {least} bytes");
    }
}
