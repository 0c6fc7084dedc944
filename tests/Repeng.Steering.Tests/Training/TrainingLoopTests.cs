using Repeng.Kernels;
using Repeng.Runtime;
using Repeng.Steering.Adapters;
using Repeng.Steering.Demo;
using Repeng.Steering.Models;
using Repeng.Steering.Training;

namespace Repeng.Steering.Tests.Training;

/// <summary>What the loop does when numbers go wrong.</summary>
public sealed class TrainingLoopTests
{
    [Theory]
    [InlineData(float.NaN)]
    [InlineData(float.PositiveInfinity)]
    public void A_gradient_that_is_not_finite_stops_the_run_before_it_is_used(float bad)
    {
        using Device device = Device.Cpu(1);
        var recipe = new DemoModelRecipe { Layers = 1, Hidden = 32, Intermediate = 32, Heads = 1 };
        ModelConfig description = Families.Read(new ConfigReader(recipe.Config(), "test"));
        using var weights = new ModelInitialiser(description, 1);
        using DecoderModel model = ModelLoader.Load(device, description, weights);
        using SvdAdapter adapter = SvdAdapter.Create(model, new SvdAdapterConfig { Rank = 4, TargetModules = ".*down_proj" });
        TrainConfig config = TrainConfig.FromProfile("upstream") with { BatchSize = 2, Epochs = 3, GradAccumSteps = 1, CheckpointEvery = 1 };
        var data = new PairData([new TokenPair([4, 5, 6], [4, 7, 6])], 0);
        using var objective = new Scripted(adapter, [0.5f, bad]);
        using var loop = new TrainingLoop(adapter, objective, config, data, null);
        var saved = new List<float[]>();

        var error = Assert.Throws<UserErrorException>(() => loop.Run(null, () => saved.Add(adapter.Parameters[0].ToArray()), default));

        Assert.Contains("batch 1", error.Message);
        Assert.Single(saved);
        Assert.Equal(saved[0], adapter.Parameters[0].ToArray());
        Assert.All(saved[0], x => Assert.True(float.IsFinite(x)));
    }

    /// <summary>A finite loss whose gradient has the given value at each batch.</summary>
    private sealed class Scripted(SvdAdapter adapter, float[] gradients) : ITrainingObjective
    {
        private int _batch;

        public IReadOnlyList<string> LossLayers => ["scripted"];

        public StepResult Run(PairData data, TokenBatch batch, ReadOnlySpan<int> pairs, int optimiserStep, int totalSteps, bool backward)
        {
            adapter.Model.Device.Backend.Fill(adapter.Parameters[0].GradToAdd(), gradients[_batch++]);
            return new StepResult(1, [new LossRow(1, "scripted", 1, 0, 1, 0, 1, 0, 0, 0)]);
        }

        public void Dispose()
        {
        }
    }
}
