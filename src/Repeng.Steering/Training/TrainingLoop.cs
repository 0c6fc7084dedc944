using System.Diagnostics;
using Repeng.Autograd;
using Repeng.Kernels;
using Repeng.Steering.Adapters;
using Repeng.Steering.Losses;
using Repeng.Steering.Models;

namespace Repeng.Steering.Training;

/// <summary>What the loop says after every batch.</summary>
public sealed record TrainingProgress(int Step, int TotalSteps, int Epoch, double Loss, double Separation, double Degradation, double LearningRate, double RowsPerSecond, double SecondsLeft, IReadOnlyList<LossRow> Rows, double? ValidationLoss)
{
    /// <summary>Rows of the validation that came after this batch, one a coefficient and loss layer, as means over the held-out pairs; null where none came.</summary>
    public IReadOnlyList<LossRow>? ValidationRows { get; init; }
}

/// <summary>How a loop ended.</summary>
public enum TrainingEnd
{
    /// <summary>All epochs are done.</summary>
    Finished,

    /// <summary>Validation stopped improving; the best parameters are back.</summary>
    EarlyStop,

    /// <summary>It was asked to stop; the state was kept.</summary>
    Stopped,
}

/// <summary>Position of a run; with the parameters and moments it is all that a resumed run needs.</summary>
public sealed record LoopState
{
    /// <summary>Batches done.</summary>
    public int Step { get; init; }

    /// <summary>Optimiser steps done.</summary>
    public int OptimiserSteps { get; init; }

    /// <summary>Best validation loss so far.</summary>
    public double BestValidation { get; init; } = double.PositiveInfinity;

    /// <summary>Validation checks since the best one.</summary>
    public int ChecksSinceBest { get; init; }
}

/// <summary>Keeps states of a loop; every method sees a consistent state.</summary>
public interface ILoopCheckpoints
{
    /// <summary>Keep the state as it is now; whether it is good is not known yet.</summary>
    void Save();

    /// <summary>Loss and gradient were finite on the state that was saved last: the ones before it may go.</summary>
    void Prove();

    /// <summary>They were not: the state before it counts.</summary>
    void Discard();
}

/// <summary>
/// The training loop: one-cycle AdamW over batches of pairs, gradients of all coefficients in one pass, base model's
/// values cached per pair. The same settings and texts give the same bits at any thread count, and a run that is
/// killed and resumed from its checkpoint ends with the same bits as one that was not.
/// </summary>
public sealed class TrainingLoop : IDisposable
{
    private readonly TrainConfig _config;
    private readonly IAdapter _adapter;
    private readonly ITrainingObjective _objective;
    private readonly PairData _train;
    private readonly PairData? _validation;

    /// <summary>Prepares a loop; the adapter's parameters are trained in place.</summary>
    public TrainingLoop(IAdapter adapter, ITrainingObjective objective, TrainConfig config, PairData train, PairData? validation)
    {
        config.Validate();
        (_config, _adapter, _objective, _train, _validation) = (config, adapter, objective, train, validation);
        Optimiser = new AdamW(adapter.Parameters, weightDecay: config.WeightDecay);
        BatchesPerEpoch = (train.Pairs.Count * 2 + config.BatchSize - 1) / config.BatchSize;
        TotalBatches = checked(BatchesPerEpoch * config.Epochs);
        Schedule = new OneCycle(TotalBatches / config.GradAccumSteps + 1, config.LearningRate, config.PctStart);
        BestParameters = [];
    }

    /// <summary>The optimiser.</summary>
    public AdamW Optimiser { get; }

    /// <summary>The schedule.</summary>
    public OneCycle Schedule { get; }

    /// <summary>Batches an epoch; the last may be smaller.</summary>
    public int BatchesPerEpoch { get; }

    /// <summary>Batches of the whole run.</summary>
    public int TotalBatches { get; }

    /// <summary>Where the run is.</summary>
    public LoopState State { get; set; } = new();

    /// <summary>Parameters at the best validation so far, in the adapter's order; empty when there was none.</summary>
    public List<float[]> BestParameters { get; set; }

    /// <summary>
    /// Runs from <see cref="State"/> to the end. States are saved after optimiser steps that are due. A loss, a gradient or a
    /// parameter that is not finite stops the run with the last good state: one counts as good when the step after it found
    /// loss and gradient finite, since parameters can be finite and yet too far gone.
    /// </summary>
    public TrainingEnd Run(Action<TrainingProgress>? progress, ILoopCheckpoints? checkpoints, CancellationToken stop)
    {
        // A run that is resumed has yet to show that it began from a good state; the same step follows as did before.
        bool waiting = State.Step > 0;
        var watch = Stopwatch.StartNew();
        long rowsDone = 0;
        int firstStep = State.Step;
        while (State.Step < TotalBatches)
        {
            int epoch = State.Step / BatchesPerEpoch, within = State.Step % BatchesPerEpoch;
            int[] order = _train.Order(epoch, _config.Shuffle, _config.Seed);
            int perBatch = _config.BatchSize / 2, first = within * perBatch;
            int[] pairs = order[first..Math.Min(order.Length, first + perBatch)];
            TokenBatch batch = _train.Batch(pairs);
            StepResult result = _objective.Run(_train, batch, pairs, Optimiser.Steps, Schedule.TotalSteps, backward: true);
            if (!double.IsFinite(result.Total))
                throw Failed($"the loss became {result.Total} at batch {State.Step} (epoch {epoch}); the run stops");
            rowsDone += batch.Batch;

            int step = State.Step;
            bool stepped = step % _config.GradAccumSteps == 0;
            double rate = Schedule.At(Math.Min(Optimiser.Steps, Schedule.TotalSteps - 1)).LearningRate;
            if (stepped)
            {
                double norm = PrepareStep(step);
                if (!double.IsFinite(norm))
                    throw Failed($"the gradient's norm became {norm} at batch {step}; the run stops before it is used");
                if (waiting)
                    checkpoints?.Prove();
                waiting = false;
                ApplyStep();
            }
            State = State with { Step = step + 1, OptimiserSteps = Optimiser.Steps };

            (double Loss, IReadOnlyList<LossRow> Rows)? validation = null;
            bool endOfEpoch = within == BatchesPerEpoch - 1;
            if (endOfEpoch && _validation is not null)
                validation = Validate();
            double perSecond = rowsDone / Math.Max(1e-9, watch.Elapsed.TotalSeconds);
            double left = watch.Elapsed.TotalSeconds / (State.Step - firstStep) * (TotalBatches - State.Step);
            progress?.Invoke(new TrainingProgress(State.Step, TotalBatches, epoch, result.Total,
                result.Rows.Average(r => r.C * (r.ProjPi - r.ProjRef)), result.Rows.Average(r => r.LogpDegradation), rate, perSecond, left, result.Rows, validation?.Loss)
            {
                ValidationRows = validation?.Rows,
            });
            if (_config.Patience > 0 && State.ChecksSinceBest >= _config.Patience)
            {
                RestoreBest();
                return TrainingEnd.EarlyStop;
            }
            bool due = stepped && _config.CheckpointEvery > 0 && Optimiser.Steps % _config.CheckpointEvery == 0;
            // A checkpoint holds no half-summed gradients: it is only written right after an optimiser step.
            if (stepped && (due || stop.IsCancellationRequested))
            {
                RequireFinite();
                checkpoints?.Save();
                waiting = true;
            }
            if (stepped && stop.IsCancellationRequested)
                return TrainingEnd.Stopped;
        }
        if (_config.Patience > 0)
            RestoreBest();
        RequireFinite();
        return TrainingEnd.Finished;

        void RequireFinite()
        {
            if (Optimiser.Parameters.FirstOrDefault(p => p.ToArray().Any(x => !float.IsFinite(x))) is { } broken)
                throw Failed($"{broken.Name} is no longer finite after batch {State.Step - 1}; the run stops");
        }

        UserErrorException Failed(string what)
        {
            if (waiting)
                checkpoints?.Discard();
            return new UserErrorException($"{what}. Lower --lr (now {_config.LearningRate}) or set --clip_norm");
        }
    }

    /// <inheritdoc/>
    public void Dispose() => Optimiser.Dispose();

    // Divides and clips the gradients; returns their norm.
    private double PrepareStep(int step)
    {
        // The first step updates after one batch, as upstream's loop does (step % accum == 0).
        int summed = step == 0 ? 1 : _config.GradAccumSteps;
        if (_config.DivideAccumulated && summed > 1)
            foreach (var p in Optimiser.Parameters)
                if (!p.Grad.IsEmpty)
                    p.Device.Backend.Unary(p.Grad, p.Grad, p.Length, UnaryOp.Scale, 1f / summed);
        // A finite loss can have a gradient that is not; stepping on it would spoil the parameters.
        return Optimiser.ClipGradNorm(_config.ClipNorm > 0 ? _config.ClipNorm : double.PositiveInfinity);
    }

    private void ApplyStep()
    {
        (double rate, double beta1) = Schedule.At(Math.Min(Optimiser.Steps, Schedule.TotalSteps - 1));
        Optimiser.Beta1 = beta1;
        Optimiser.Step(rate);
        Optimiser.ZeroGrad();
    }

    private (double, IReadOnlyList<LossRow>) Validate()
    {
        double total = 0;
        var parts = new List<(IReadOnlyList<LossRow>, double)>();
        int perBatch = _config.BatchSize / 2;
        for (int first = 0; first < _validation!.Pairs.Count; first += perBatch)
        {
            int[] pairs = [.. Enumerable.Range(first, Math.Min(perBatch, _validation.Pairs.Count - first))];
            TokenBatch batch = _validation.Batch(pairs);
            StepResult result = _objective.Run(_validation, batch, pairs, Optimiser.Steps, Schedule.TotalSteps, backward: false);
            total += result.Total * pairs.Length;
            parts.Add((result.Rows, pairs.Length));
        }
        double loss = total / _validation.Pairs.Count;
        bool better = loss < State.BestValidation - 1e-5 * Math.Abs(State.BestValidation) || double.IsPositiveInfinity(State.BestValidation);
        State = better ? State with { BestValidation = loss, ChecksSinceBest = 0 } : State with { ChecksSinceBest = State.ChecksSinceBest + 1 };
        if (better && _config.Patience > 0)
            BestParameters = [.. _adapter.Parameters.Select(p => p.ToArray())];
        return (loss, LossRow.Mean(parts));
    }

    private void RestoreBest()
    {
        for (int i = 0; i < BestParameters.Count; i++)
            _adapter.Parameters[i].Upload(BestParameters[i]);
    }
}
