using Repeng.Autograd;
using Repeng.Kernels;
using Repeng.Runtime;
using Repeng.Steering.Generation;
using Repeng.Steering.Models;

namespace Repeng.Steering.Vectors;

/// <summary>
/// A model that can be put under the control of a vector and out of it again, as repeng's ControlModel; but nothing of the
/// model is replaced or changed, so that several of them may stand on one model. Owns the vector's directions on the
/// device, not the model. Padding is never steered. Not for use by several threads while the control is set.
/// </summary>
public sealed class ControlModel : IDisposable
{
    private readonly DecoderModel _model;
    private readonly string[]? _modules;
    private VectorControl? _control;

    /// <summary>A model that a vector may steer wherever it has a direction.</summary>
    public ControlModel(DecoderModel model) => _model = model;

    /// <summary>
    /// A model that is steered at the outputs of some blocks. Negative numbers count from the end: −1 is the last. Throws
    /// <see cref="UserErrorException"/> for no number, one twice, and one beyond the model.
    /// </summary>
    public ControlModel(DecoderModel model, IEnumerable<int> layers)
        : this(model, layers.Select(l => -model.Blocks.Count <= l && l < model.Blocks.Count
            ? model.Blocks[l < 0 ? l + model.Blocks.Count : l].Path
            : throw new UserErrorException($"layer {l}: {model.Source} has blocks 0 … {model.Blocks.Count - 1}, or from the end -1 … {-model.Blocks.Count}")))
    {
    }

    /// <summary>A model that is steered at some modules, by dotted path; <see cref="LayerSelection.Modules"/> finds them by regular expression and range.</summary>
    public ControlModel(DecoderModel model, IEnumerable<string> modules)
    {
        (_model, _modules) = (model, [.. modules]);
        if (_modules.Length == 0)
            throw new UserErrorException("no layer to steer; name at least one, or none at all to steer wherever the vector has a direction");
        if (_modules.FirstOrDefault(m => !model.Modules.Contains(m)) is { } unknown)
            throw new UserErrorException($"{model.Source} has no module {unknown}; its modules are {model.Modules[0]}, …, {model.Modules[^1]}");
        if (_modules.GroupBy(m => m).FirstOrDefault(g => g.Count() > 1) is { } twice)
            throw new UserErrorException($"layer {twice.Key} is named twice");
    }

    /// <summary>The model's description.</summary>
    public ModelConfig Config => _model.Config;

    /// <summary>Where it runs.</summary>
    public Device Device => _model.Device;

    /// <summary>The vector in control; null where there is none.</summary>
    public ControlVector? Vector { get; private set; }

    /// <summary>Its coefficient; 0 without a vector.</summary>
    public float Coefficient { get; private set; }

    /// <summary>Dotted paths of the modules that are steered now.</summary>
    public IReadOnlyCollection<string> SteeredModules => _control?.Modules ?? [];

    /// <summary>
    /// Puts the model under the control of a vector, in the place of the one before; null is <see cref="Reset"/>. Where layers
    /// were chosen, the vector must have a direction for each of them, and its others are left alone. Throws
    /// <see cref="UserErrorException"/> for a vector of another model or width and for a coefficient that is not finite;
    /// the control stays as it was then.
    /// </summary>
    /// <param name="vector">The vector.</param>
    /// <param name="coefficient">Its factor; 0 leaves the model as it is, to the bit.</param>
    /// <param name="normalize">Give each token's output the length back that it had before.</param>
    /// <param name="operation">Takes the place of y + control.</param>
    public void SetControl(ControlVector? vector, float coefficient = 1, bool normalize = false, ControlOperator? operation = null)
    {
        if (vector is null)
        {
            Reset();
            return;
        }
        if (!float.IsFinite(coefficient))
            throw new UserErrorException($"coefficient {coefficient} is not a finite number");
        var control = new VectorControl(_model, _modules is null ? vector : Chosen(vector, _modules), normalize, operation);
        _control?.Dispose();
        (_control, Vector, Coefficient) = (control, vector, coefficient);
    }

    /// <summary>Takes the control off.</summary>
    public void Reset()
    {
        _control?.Dispose();
        (_control, Vector, Coefficient) = (null, null, 0);
    }

    /// <summary>Takes the control off and hands the model back, which is as it was.</summary>
    public DecoderModel Unwrap()
    {
        Reset();
        return _model;
    }

    /// <summary>A context of one pass under the control that is set; with coefficients, one a row in the place of <see cref="Coefficient"/>.</summary>
    public ForwardContext Context(Tape tape, TokenBatch tokens, KvCache? cache = null, float[]? coefficients = null, Func<string, bool>? capture = null) =>
        Steering.Context(tape, tokens, coefficients ?? All(tokens.Batch), cache, capture: capture);

    /// <summary>Logits [batch, vocabulary] after the last token of each row.</summary>
    public float[] Logits(TokenBatch tokens)
    {
        using var tape = new Tape(Device, record: false);
        ForwardContext context = Context(tape, tokens);
        return _model.Logits(context, _model.Forward(context), [.. Enumerable.Range(1, tokens.Batch).Select(b => b * tokens.Length - 1)]).ToArray();
    }

    /// <summary>Continues prompts under the control that is set; see <see cref="Generator.Generate"/>.</summary>
    public int[][] Generate(IReadOnlyList<int[]> prompts, SamplingSettings settings, int maxNewTokens, IReadOnlyCollection<int> stops, int padId = 0, Action<int, int>? onToken = null, CancellationToken stop = default) =>
        new Generator(_model).Generate(prompts, All(prompts.Count), Steering, settings, maxNewTokens, stops, padId, onToken, stop);

    /// <summary>Takes the control off; the model lives on.</summary>
    public void Dispose() => Reset();

    private Generation.Steering Steering => new(Vector: _control);

    private float[] All(int rows) => [.. Enumerable.Repeat(Coefficient, rows)];

    private ControlVector Chosen(ControlVector vector, string[] modules)
    {
        Dictionary<string, Direction> all = VectorControl.Resolve(_model, vector);
        return new ControlVector(vector.ModelType, modules.Select(m => KeyValuePair.Create(LayerSelection.LayerName(_model, m), all.TryGetValue(m, out Direction? d)
            ? d
            : throw new UserErrorException($"the control vector has no direction for {m}, which is to be steered; it has {string.Join(", ", vector.Layers)}"))));
    }
}
