using Repeng.Autograd;
using Repeng.Kernels;
using Repeng.Runtime;
using Repeng.Steering.Models;

namespace Repeng.Steering.Vectors;

/// <summary>How a control vector changes an output y [rows, width], given what it would add, control [rows, width]: c·direction, zero on padding.</summary>
public delegate Tensor ControlOperator(Tape tape, Tensor y, Tensor control);

/// <summary>
/// A control vector on a model, ready to be used in passes; the model itself is not changed. Owns the directions on the
/// device. A row of the batch with c = 0 keeps its values, and a pass with c = 0 alone is not touched at all. Padding is left alone.
/// </summary>
public sealed class VectorControl : IDisposable
{
    private readonly Dictionary<string, Tensor> _directions;
    private readonly bool _normalize;
    private readonly ControlOperator? _operator;

    /// <summary>
    /// Puts a vector's directions (components summed) on the model's device. Throws <see cref="UserErrorException"/>
    /// for a layer that the model does not have, or of another width.
    /// </summary>
    /// <param name="model">The model.</param>
    /// <param name="vector">The vector.</param>
    /// <param name="normalize">Give each token's output the length back that it had before.</param>
    /// <param name="operation">Takes the place of y + control.</param>
    public VectorControl(DecoderModel model, ControlVector vector, bool normalize = false, ControlOperator? operation = null)
    {
        (_normalize, _operator) = (normalize, operation);
        Dictionary<string, Direction> byPath = Resolve(model, vector);
        _directions = byPath.ToDictionary(d => d.Key, d => Tensor.From(model.Device, d.Value.Components == 1 ? d.Value.Values : d.Value.Sum(), d.Value.Width));
    }

    /// <summary>Whether an operator that was given takes the place of y + control.</summary>
    public bool HasOperator => _operator is not null;

    /// <summary>Dotted paths of the steered modules.</summary>
    public IReadOnlyCollection<string> Modules => _directions.Keys;

    /// <summary>The edit of one pass in which each row has its own coefficient; null where all are 0.</summary>
    public IModuleEdit? Pass(float[] coefficients)
    {
        for (int b = 0; b < coefficients.Length; b++)
            if (!float.IsFinite(coefficients[b]))
                throw new UserErrorException($"coefficient {coefficients[b]} of row {b} is not a finite number");
        return coefficients.All(c => c == 0) ? null : new Edit(this, coefficients);
    }

    /// <summary>Directions by module path: block numbers become the paths of this model's blocks.</summary>
    public static Dictionary<string, Direction> Resolve(DecoderModel model, ControlVector vector)
    {
        HashSet<string> known = [.. model.Modules];
        var found = new Dictionary<string, Direction>(StringComparer.Ordinal);
        foreach (string layer in vector.Layers)
        {
            string path = layer;
            if (ControlVector.BlockOf(layer) is { } block)
                path = block < model.Blocks.Count ? model.Blocks[block].Path : throw new UserErrorException($"the control vector has a direction for block {block}; {model.Source} has blocks 0 … {model.Blocks.Count - 1}: it was made for another model ({vector.ModelType})");
            if (!known.Contains(path))
                throw new UserErrorException($"the control vector has a direction for {layer}, which {model.Source} ({model.Config.ModelType}) does not have; it was made for another model ({vector.ModelType})");
            if (!found.TryAdd(path, vector.Directions[layer]))
                throw new UserErrorException($"the control vector has two directions for {path}");
        }
        foreach ((string path, Direction direction) in found)
            if (LayerSelection.Width(model, path) != direction.Width)
                throw new UserErrorException($"the control vector's direction for {path} has {direction.Width} values, the module's output {LayerSelection.Width(model, path)}; it was made for another model ({vector.ModelType})");
        return found;
    }

    /// <inheritdoc/>
    public void Dispose()
    {
        foreach (Tensor t in _directions.Values)
            t.Dispose();
    }

    private sealed class Edit(VectorControl control, float[] coefficients) : IModuleEdit
    {
        private Tensor _perToken = null!;

        // Coefficient of each token, 0 on padding; made outside of the blocks' scopes, since every steered module reads it.
        public void Begin(ForwardContext context)
        {
            TokenBatch tokens = context.Tokens;
            if (tokens.Batch != coefficients.Length)
                throw new ArgumentException($"{coefficients.Length} coefficients for a batch of {tokens.Batch} rows");
            int offset = context.Cache?.Length ?? 0;
            var values = new float[tokens.Batch * tokens.Length];
            for (int b = 0; b < tokens.Batch; b++)
                for (int t = 0; t < tokens.Length; t++)
                    values[b * tokens.Length + t] = offset + t >= tokens.Starts[b] ? coefficients[b] : 0;
            _perToken = context.Tape.Constant(values, values.Length, 1);
        }

        public bool Touches(string module) => control._directions.ContainsKey(module);

        public Tensor Apply(ForwardContext context, string module, Tensor y, Tensor? tokens)
        {
            Tape tape = context.Tape;
            Tensor direction = control._directions[module], coefficient = tokens is null ? _perToken : tape.GatherRows(_perToken, tokens);
            Tensor edited = control._operator is null
                ? tape.AddOuter(y, coefficient, direction)
                : control._operator(tape, y, tape.MatMul(coefficient, tape.Reshape(direction, 1, direction.Cols)));
            return control._normalize ? Rescaled(tape, edited, y) : edited;
        }

        private static Tensor Rescaled(Tape tape, Tensor edited, Tensor before)
        {
            Tensor old = Length(tape, before), now = tape.Unary(Length(tape, edited), UnaryOp.Max, float.Epsilon);
            return tape.Multiply(edited, tape.Divide(old, now), Broadcast.OverCols);
        }

        private static Tensor Length(Tape tape, Tensor x) => tape.Unary(tape.Sum(tape.Unary(x, UnaryOp.Square), -1), UnaryOp.Sqrt);
    }
}
