using Repeng.Autograd;
using Repeng.Kernels;
using Repeng.Kernels.LinearAlgebra;
using Repeng.Runtime;
using Repeng.Steering.Adapters;
using Repeng.Steering.Losses;
using Repeng.Steering.Models;

namespace Repeng.Steering.Training;

/// <summary>What a training loop minimises: the loss of a batch of pairs at c = −1 and +1, gradients into the adapter's parameters.</summary>
public interface ITrainingObjective : IDisposable
{
    /// <summary>Names of what the loss reads, for reports.</summary>
    IReadOnlyList<string> LossLayers { get; }

    /// <summary>Names of the metrics that its rows have beyond <see cref="LossRow"/>'s own.</summary>
    IReadOnlyList<string> Metrics => [];

    /// <summary>The loss of a batch made of these pairs of a data set, at an optimiser step of the schedule.</summary>
    StepResult Run(PairData data, TokenBatch batch, ReadOnlySpan<int> pairs, int optimiserStep, int totalSteps, bool backward);
}

/// <summary>The reference state's losses on the outputs of adapted layers; owns the loss layers. Base values are cached per pair.</summary>
public sealed class ContrastiveObjective(ContrastiveStep step, IReadOnlyList<LossLayer> layers) : ITrainingObjective
{
    private static readonly float[] s_coefficients = [-1, 1];
    private readonly Dictionary<PairData, ReferenceCache> _references = [];

    /// <inheritdoc/>
    public IReadOnlyList<string> LossLayers { get; } = [.. layers.Select(l => l.Module)];

    /// <inheritdoc/>
    public StepResult Run(PairData data, TokenBatch batch, ReadOnlySpan<int> pairs, int optimiserStep, int totalSteps, bool backward)
    {
        if (!_references.TryGetValue(data, out ReferenceCache? cache))
            _references[data] = cache = new ReferenceCache(step, data);
        return step.Run(batch, cache.Get(batch, pairs), s_coefficients, backward);
    }

    /// <inheritdoc/>
    public void Dispose()
    {
        foreach (LossLayer layer in layers)
            layer.Dispose();
    }
}

/// <summary>AntiPaSTO's loss on the residual stream; owns the subspace.</summary>
public sealed class AntiPastoObjective(AntiPastoStep step, Tensor subspace, string tap) : ITrainingObjective
{
    /// <inheritdoc/>
    public IReadOnlyList<string> LossLayers { get; } = [tap];

    /// <inheritdoc/>
    public IReadOnlyList<string> Metrics => AntiPastoMetrics.Names;

    /// <inheritdoc/>
    public StepResult Run(PairData data, TokenBatch batch, ReadOnlySpan<int> pairs, int optimiserStep, int totalSteps, bool backward)
    {
        AntiPastoResult r = step.Run(batch, optimiserStep, totalSteps, backward);
        LossRow Row(float c, int side)
        {
            IReadOnlyDictionary<string, double> m = r.Metrics[side];
            // The separation is the change of the gap of label log-probabilities.
            return new(c, tap, r.Projection, m["loss_coh"], r.Total, -m["coh_deg"], Math.Exp(m["coh_deg"]), m["delta_logp"], 0, m["mag_diff"]) { Metrics = m };
        }
        return new StepResult(r.Total, [Row(-1, 0), Row(1, 1)]);
    }

    /// <inheritdoc/>
    public void Dispose() => subspace.Dispose();
}
