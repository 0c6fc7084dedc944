using Repeng.Steering.Losses;
using TorchSharp;
using TorchSharp.Modules;
using static TorchSharp.torch;
using Tensor = TorchSharp.torch.Tensor;

namespace Repeng.Bench.Training;

/// <summary>
/// The same training step in libtorch: log-sigmoid of the separation along d_steer and the hinge on label log-probabilities, over the last
/// tokens. Logits are computed where the loss reads them only. Written from the formulas, not from the engine's code.
/// </summary>
internal sealed class TorchEngine : ITrainEngine
{
    private readonly TorchDecoder _decoder;
    private readonly TorchAdapter _adapter;
    private readonly TorchInput _input, _stacked;
    private readonly string[] _modules;
    private readonly Tensor[] _directions;
    private readonly ContrastiveLossConfig _loss;
    private readonly Tensor _real, _pairMask, _labels, _scored;
    private readonly float[][] _passes;
    private readonly int _pairs, _window;
    private readonly IReadOnlyList<Parameter> _parameters;
    private readonly optim.Optimizer _optimiser;
    private Tensor[] _separationRef = [];
    private Tensor? _logProbRef;

    public TorchEngine(TrainCase problem, bool separate, ScalarType type)
    {
        _loss = problem.Loss;
        if (_loss is not { Separation: SeparationLoss.LogSigmoid, Coherence: CoherenceLoss.Hinge, RelativeToGap: false, LastTokens: not null })
            throw new InvalidOperationException("the peer computes the log-sigmoid with the coherence hinge");
        using DisposeScope scope = NewDisposeScope();
        _decoder = new TorchDecoder(problem.Model, type);
        _adapter = new TorchAdapter(problem.Adapter, _decoder);
        var batch = problem.Batch;
        _input = TorchInput.From(batch, problem.Model.Config, type);
        _passes = separate ? [.. TrainCase.Coefficients.Select(c => new[] { c })] : [TrainCase.Coefficients];
        _stacked = TorchInput.From(batch.Repeat(_passes[0].Length), problem.Model.Config, type);
        Name = $"TorchSharp (libtorch {torch.__version__}{(type == ScalarType.BFloat16 ? ", bf16" : "")}), c = ±1 {(separate ? "one after the other" : "stacked")}";
        _modules = [.. problem.Layers.Select(l => l.Module)];
        _directions = [.. problem.Layers.Select(l => tensor(l.Direction.ToArray()).DetachFromDisposeScope())];
        _pairs = batch.Batch / 2;
        _window = Math.Min(_loss.LastTokens.Value, batch.Length);
        int first = batch.Length - _window;

        // [pairs, 2, window]: positive and negative row of each pair.
        Tensor real = (arange(batch.Length) >= tensor(batch.Starts).unsqueeze(1))[TensorIndex.Colon, TensorIndex.Slice(first)].to(float32).view(_pairs, 2, _window);
        Tensor any = real.amax([1], keepdim: true);
        _real = real.DetachFromDisposeScope();
        _pairMask = (any / any.sum(-1, keepdim: true)).DetachFromDisposeScope();
        // A label counts where its context is real; the last column has none.
        Tensor ids = tensor(batch.Ids, batch.Batch, batch.Length).to(int64);
        _labels = ids[TensorIndex.Colon, TensorIndex.Slice(first + 1)].contiguous().DetachFromDisposeScope();
        Tensor counted = (real * any)[TensorIndex.Ellipsis, TensorIndex.Slice(0, _window - 1)];
        _scored = (counted / counted.sum(-1, keepdim: true)).DetachFromDisposeScope();

        _parameters = _adapter.Parameters;
        _optimiser = optim.AdamW(_parameters, TrainCase.LearningRate, weight_decay: TrainCase.WeightDecay);
    }

    public string Name { get; }

    public void Reference()
    {
        using IDisposable frozen = no_grad();
        using DisposeScope scope = NewDisposeScope();
        var taps = new TorchTaps(_modules, scope);
        Tensor hidden = _decoder.Forward(_input, null, taps);
        DropReference();
        _separationRef = [.. Separations(taps, 1).Select(s => s[0].DetachFromDisposeScope())];
        _logProbRef = LogProb(Window(hidden), _labels).view(_pairs, 2, _window - 1).DetachFromDisposeScope();
    }

    public double LossAndGradients() => _passes.Sum(Pass);

    public void Update()
    {
        using DisposeScope scope = NewDisposeScope();
        nn.utils.clip_grad_norm_(_parameters, TrainCase.ClipNorm);
        _optimiser.step();
        _optimiser.zero_grad();
    }

    public IReadOnlyList<float[]> Gradients() => [.. _parameters.Select(p =>
    {
        using Tensor gradient = p.grad!.contiguous();
        return gradient.data<float>().ToArray();
    })];

    public void SetParameters(IReadOnlyList<float[]> values)
    {
        using IDisposable frozen = no_grad();
        using DisposeScope scope = NewDisposeScope();
        for (int i = 0; i < values.Count; i++)
            _parameters[i].copy_(tensor(values[i]).view(_parameters[i].shape));
        _optimiser.zero_grad();
    }

    public void Dispose()
    {
        DropReference();
        _optimiser.Dispose();
        _adapter.Dispose();
        _decoder.Dispose();
        _input.Dispose();
        _stacked.Dispose();
        foreach (Tensor t in _directions.Concat([_real, _pairMask, _labels, _scored]))
            t.Dispose();
    }

    // Loss of some coefficients stacked in one pass, and its backward pass.
    private double Pass(float[] coefficients)
    {
        using DisposeScope scope = NewDisposeScope();
        var taps = new TorchTaps(_modules, scope);
        _adapter.Prepare(coefficients);
        Tensor hidden = _decoder.Forward(_stacked, _adapter, taps);
        int copies = coefficients.Length;
        Tensor[] separation = Separations(taps, copies);

        // Positive rows at c > 0, negative rows at c < 0.
        int[] sides = [.. coefficients.Select(c => c > 0 ? 0 : 1)];
        Tensor rows = Window(hidden).view(copies, _pairs, 2, _window, -1), labels = _labels.view(_pairs, 2, _window - 1);
        Tensor chosen = cat([.. sides.Select((side, k) => rows[k, TensorIndex.Colon, side])]);
        Tensor logProb = LogProb(chosen, cat([.. sides.Select(side => labels[TensorIndex.Colon, side])])).view(copies, _pairs, _window - 1);

        Tensor total = zeros([]);
        for (int k = 0; k < copies; k++)
        {
            float c = coefficients[k];
            Tensor degradation = 10 * tanh((_logProbRef![TensorIndex.Colon, sides[k]] - logProb[k]) / 10);
            Tensor penalty = (nn.functional.relu(degradation - _loss.CoherenceThreshold) * _loss.HingeFactor).pow(_loss.BoundaryOrder);
            Tensor coherence = (penalty * _scored[TensorIndex.Colon, sides[k]]).sum(-1).mean() * _loss.CoherenceWeight;
            for (int l = 0; l < separation.Length; l++)
                total = total - nn.functional.logsigmoid(c * _loss.Beta * (separation[l][k] - _separationRef[l])).mean() + coherence;
        }
        total.backward();
        return total.item<float>();
    }

    private void DropReference()
    {
        foreach (Tensor t in _separationRef)
            t.Dispose();
        _logProbRef?.Dispose();
    }

    // The last tokens of each row: [rows, window, width].
    private Tensor Window(Tensor x) => x[TensorIndex.Colon, TensorIndex.Slice(x.shape[1] - _window)];

    // s [copies, pairs] for each loss layer: masked mean over tokens of ⟨h⁺ − h⁻, d⟩.
    private Tensor[] Separations(TorchTaps taps, int copies) => [.. _modules.Select((module, l) =>
    {
        Tensor along = matmul(Window(taps[module]).to(float32), _directions[l]).view(copies, _pairs, 2, _window) * _real;
        return ((along[TensorIndex.Ellipsis, 0, TensorIndex.Colon] - along[TensorIndex.Ellipsis, 1, TensorIndex.Colon]) * _pairMask[TensorIndex.Colon, 0]).sum(-1);
    })];

    // Log-probabilities of the labels [rows, window − 1] from hidden states [rows, window, d].
    private Tensor LogProb(Tensor hidden, Tensor labels)
    {
        Tensor logits = nn.functional.linear(hidden[TensorIndex.Colon, TensorIndex.Slice(0, _window - 1)], _decoder.Head);
        return nn.functional.log_softmax(logits.to(float32), -1).gather(-1, labels.unsqueeze(-1)).squeeze(-1);
    }
}
