using Repeng.Autograd;
using Repeng.Runtime;
using Repeng.Steering.Training;

namespace Repeng.Bench.Training;

/// <summary>The engine's own step, exactly as the training loop takes it.</summary>
internal sealed class OurEngine(TrainCase problem, TrainBenchOptions options) : ITrainEngine
{
    private readonly AdamW _optimiser = new(problem.Adapter.Parameters, weightDecay: TrainCase.WeightDecay);
    private readonly ContrastiveStep _step = new(problem.Model, problem.Adapter, problem.Layers, problem.Loss)
    {
        CheckpointBlocks = options.CheckpointActivations,
        MicroBatchRows = options.MicroBatch,
        SharePrefixes = !options.TextByText,
    };

    private Reference? _reference;

    public string Name => "Repeng.Native";

    public void Reference() => _reference = _step.ComputeReference(problem.Batch);

    public double LossAndGradients() => _step.Run(problem.Batch, _reference!, TrainCase.Coefficients).Total;

    public void Update()
    {
        _optimiser.ClipGradNorm(TrainCase.ClipNorm);
        _optimiser.Step(TrainCase.LearningRate);
        _optimiser.ZeroGrad();
    }

    public IReadOnlyList<float[]> Gradients() => [.. _optimiser.Parameters.Select(p => p.GradToArray())];

    public void SetParameters(IReadOnlyList<float[]> values)
    {
        for (int i = 0; i < values.Count; i++)
            _optimiser.Parameters[i].Upload(values[i]);
        _optimiser.ZeroGrad();
    }

    public void Dispose() => _optimiser.Dispose();
}
