using Repeng.Autograd;
using Repeng.Kernels;
using Repeng.Runtime;
using Repeng.Steering.Adapters;
using Repeng.Steering.Losses;
using Repeng.Steering.Models;
using Repeng.Steering.Training;

namespace Repeng.Bench.Scaling;

/// <summary>
/// A training step of a model of random weights as the product takes it: the base model's pass, c = −1 and c = +1 forward and backward, clipping, AdamW.
/// Profile <c>recommended</c>, rotations on both sides, the product's own layers. Bases and directions are random too: what they hold changes no time, and
/// singular vectors of random weights would take longer than the step.
/// </summary>
internal sealed class StepCase : IDisposable
{
    private readonly DecoderModel _model;
    private readonly SvdAdapter _adapter;
    private readonly LossLayer[] _layers;
    private readonly ContrastiveStep _step;
    private readonly AdamW _optimiser;
    private readonly TokenBatch _batch;
    private readonly TrainConfig _config;
    private ulong _stream;

    public StepCase(DecoderModel model, StepSize size, string? targets = null)
    {
        _model = model;
        _config = TrainConfig.FromProfile("recommended") with
        {
            Adapter = new SvdAdapterConfig
            {
                Rank = size.Rank,
                RotateU = true,
                RotateV = true,
                Scale = ScaleMethod.Mult,
                TargetModules = targets ?? TrainDefaults.For(model.Config, isDemo: false, quick: false).TargetModules,
            },
        };
        _adapter = new SvdAdapter(_config.Adapter, model, [.. SvdAdapter.Match(model, _config.Adapter.TargetModules).Select(l => Layer(l, size.Rank))]);
        _layers = [.. LossLayers.Select(model, _adapter.Modules).Select(name =>
        {
            int outputs = model.Linears[name].Outputs;
            double unit = 1 / Math.Sqrt(outputs);
            return new LossLayer(name, Random(unit, outputs, 1), Random(unit, outputs, 1), null);
        })];
        _step = new ContrastiveStep(model, _adapter, _layers, _config.Loss);
        _optimiser = new AdamW(_adapter.Parameters, weightDecay: _config.WeightDecay);
        _batch = new TokenBatch(size.Rows, size.Tokens, Tokens(model.Config, size.Rows * size.Tokens), new int[size.Rows]);
    }

    public static int[] Tokens(ModelConfig config, int count) => [.. Enumerable.Range(0, count).Select(i => (int)(config.VocabSize * Philox.Uniform(1, 0, (ulong)i)))];

    public void Run()
    {
        Reference reference = _step.ComputeReference(_batch);
        double loss = _step.Run(_batch, reference, [-1, 1]).Total;
        if (!double.IsFinite(loss))
            throw new UserErrorException($"the loss of the step on {_model.Source} is {loss}: its time would mean nothing");
        _optimiser.ClipGradNorm(_config.ClipNorm);
        _optimiser.Step(_config.LearningRate);
        _optimiser.ZeroGrad();
    }

    public void Dispose()
    {
        _optimiser.Dispose();
        foreach (LossLayer layer in _layers)
            layer.Dispose();
        _adapter.Dispose();
    }

    private SvdLayer Layer(LinearModule linear, int rank) => new(_config.Adapter, linear.Path,
        Random(1 / Math.Sqrt(linear.Outputs), linear.Outputs, rank), Random(1, rank), Random(1 / Math.Sqrt(linear.Inputs), linear.Inputs, rank),
        Random(0.002, rank), Random(0.003, rank, rank), Random(0.003, rank, rank));

    private Tensor Random(double deviation, params int[] shape)
    {
        if (_model.Device.Backend.IsDry)
            return new Tensor(_model.Device, DType.F32, shape);
        var values = new float[shape.Aggregate(1, (a, b) => a * b)];
        Philox.FillNormal(values, 2, ++_stream);
        return Tensor.From(_model.Device, [.. values.Select(v => (float)(deviation * v))], shape);
    }
}
