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
        using var run = new Run([0.5f, bad]);
        float[] after = [];
        var error = Assert.Throws<UserErrorException>(() => run.Loop.Run(_ => after = run.Adapter.Parameters[0].ToArray(), run, default));

        Assert.Contains("batch 1", error.Message);
        Assert.Equal(after, run.Adapter.Parameters[0].ToArray());
        Assert.All(after, x => Assert.True(float.IsFinite(x)));
        // Nothing ever showed that the only checkpoint was good.
        Assert.Empty(Directory.GetFiles(run.Folder));
    }

    [Fact]
    public void Only_a_checkpoint_on_which_the_next_step_was_finite_is_kept()
    {
        using var run = new Run([0.5f, 0.5f, 0.5f, float.NaN]);
        var parameters = new List<float[]>();
        Assert.Throws<UserErrorException>(() => run.Loop.Run(_ => parameters.Add(run.Adapter.Parameters[0].ToArray()), run, default));

        // Three steps were taken; on what the third left the gradient is NaN, on what the second left it was finite.
        Assert.Equal(3, parameters.Count);
        Assert.Equal([Checkpoint.Name], Directory.GetFiles(run.Folder).Select(f => Path.GetFileName(f)));
        using var resumed = new Run([]);
        Checkpoint.Load(run.Folder, resumed.Loop, resumed.Adapter);
        Assert.Equal(2, resumed.Loop.State.Step);
        Assert.Equal(parameters[1], resumed.Adapter.Parameters[0].ToArray());
    }

    [Fact]
    public void A_kill_between_two_checkpoints_leaves_the_proven_one()
    {
        using var run = new Run([0.5f, 0.5f, 0.5f]);
        Assert.Equal(TrainingEnd.Finished, run.Loop.Run(null, run, default));
        Assert.Equal([Checkpoint.ProvenName, Checkpoint.Name], Directory.GetFiles(run.Folder).Select(f => Path.GetFileName(f)).Order(StringComparer.Ordinal));
        File.Delete(Path.Combine(run.Folder, Checkpoint.Name));
        using var resumed = new Run([]);
        Checkpoint.Load(run.Folder, resumed.Loop, resumed.Adapter);
        Assert.Equal(2, resumed.Loop.State.Step);
    }

    [Fact]
    public void Parameters_that_are_not_finite_are_never_saved()
    {
        using var run = new Run([0.5f, 0.5f], rate: double.MaxValue);
        var error = Assert.Throws<UserErrorException>(() => run.Loop.Run(null, run, default));
        Assert.Contains("no longer finite after batch 0", error.Message);
        Assert.Empty(Directory.GetFiles(run.Folder));
    }

    /// <summary>A loop of one batch an epoch with scripted gradients, a checkpoint after every step.</summary>
    private sealed class Run : ILoopCheckpoints, IDisposable
    {
        private readonly Device _device = Device.Cpu(1);
        private readonly ModelInitialiser _weights;
        private readonly DecoderModel _model;
        private readonly Scripted _objective;

        public Run(float[] gradients, double rate = 1e-3)
        {
            var recipe = new DemoModelRecipe { Layers = 1, Hidden = 32, Intermediate = 32, Heads = 1 };
            ModelConfig description = Families.Read(new ConfigReader(recipe.Config(), "test"));
            _weights = new ModelInitialiser(description, 1);
            _model = ModelLoader.Load(_device, description, _weights);
            Adapter = SvdAdapter.Create(_model, new SvdAdapterConfig { Rank = 4, TargetModules = ".*down_proj" });
            TrainConfig config = TrainConfig.FromProfile("upstream") with { BatchSize = 2, Epochs = Math.Max(1, gradients.Length), GradAccumSteps = 1, CheckpointEvery = 1, LearningRate = rate };
            _objective = new Scripted(Adapter, gradients);
            Loop = new TrainingLoop(Adapter, _objective, config, new PairData([new TokenPair([4, 5, 6], [4, 7, 6])], 0), null);
        }

        public string Folder { get; } = Directory.CreateTempSubdirectory("repeng-loop-").FullName;

        public SvdAdapter Adapter { get; }

        public TrainingLoop Loop { get; }

        public void Save()
        {
            Checkpoint.KeepProven(Folder);
            Checkpoint.Save(Folder, Loop, Adapter, "{}");
        }

        public void Prove() => Checkpoint.Prove(Folder);

        public void Discard() => Checkpoint.Discard(Folder);

        public void Dispose()
        {
            Loop.Dispose();
            Adapter.Dispose();
            _model.Dispose();
            _weights.Dispose();
            _device.Dispose();
            Directory.Delete(Folder, recursive: true);
        }
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
