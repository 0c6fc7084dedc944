using System.Globalization;
using Repeng.Kernels;

namespace Repeng.Steering.Vectors;

/// <summary>A layer's direction: Components rows of Width values, whose sum is added to the layer's output.</summary>
public sealed class Direction : IEquatable<Direction>
{
    /// <summary>values [components, width], row-major.</summary>
    public Direction(float[] values, int components = 1)
    {
        if (components < 1 || values.Length == 0 || values.Length % components != 0)
            throw new ArgumentException($"{values.Length} values are no direction of {components} components");
        (Values, Components) = (values, components);
    }

    /// <summary>[Components, Width], row-major.</summary>
    public float[] Values { get; }

    /// <summary>Number of rows k.</summary>
    public int Components { get; }

    /// <summary>Width of the layer's output.</summary>
    public int Width => Values.Length / Components;

    /// <summary>The sum of the rows [Width], what is added.</summary>
    public float[] Sum()
    {
        var sum = new float[Width];
        for (int i = 0; i < Values.Length; i++)
            sum[i % Width] += Values[i];
        return sum;
    }

    /// <summary>Same shape and the same values, bit for bit but for the sign of zero.</summary>
    public bool Equals(Direction? other) => other is not null && Components == other.Components && Values.AsSpan().SequenceEqual(other.Values);

    /// <inheritdoc/>
    public override bool Equals(object? obj) => Equals(obj as Direction);

    /// <inheritdoc/>
    public override int GetHashCode() => HashCode.Combine(Components, Values.Length, Values[0]);
}

/// <summary>
/// Directions by layer for a family of models, with their algebra (system of vgel/repeng). A layer is the number of a
/// block ("12": the block's output, block 0 is the first) or a module's dotted path ("model.layers.12.mlp.up_proj"). The order of layers is kept.
/// </summary>
public sealed class ControlVector : IEquatable<ControlVector>
{
    private readonly Dictionary<string, Direction> _directions;
    private readonly List<string> _order;

    /// <summary>Takes the layers in their order. Throws <see cref="UserErrorException"/> for a value that is not finite, naming layer and place.</summary>
    public ControlVector(string modelType, IEnumerable<KeyValuePair<string, Direction>> directions)
    {
        ModelType = modelType;
        _order = [];
        _directions = new(StringComparer.Ordinal);
        foreach ((string layer, Direction direction) in directions)
        {
            int bad = Array.FindIndex(direction.Values, v => !float.IsFinite(v));
            if (bad >= 0)
                throw new UserErrorException($"control vector, layer {layer}: value {bad} of the direction is {direction.Values[bad]}; a direction needs finite numbers");
            if (!_directions.TryAdd(layer, direction))
                throw new UserErrorException($"control vector: two directions for layer {layer}");
            _order.Add(layer);
        }
        if (_order.Count == 0)
            throw new UserErrorException("a control vector needs at least one layer");
    }

    /// <summary>model_type of the family, such as qwen3.</summary>
    public string ModelType { get; }

    /// <summary>Directions by layer.</summary>
    public IReadOnlyDictionary<string, Direction> Directions => _directions;

    /// <summary>Layers in their order.</summary>
    public IReadOnlyList<string> Layers => _order;

    /// <summary>Whether the vectors are of one family; sums across families are possible and rarely meant.</summary>
    public bool IsOfSameFamily(ControlVector other) => ModelType == other.ModelType;

    /// <summary>The union of the layers; a layer that one lacks counts as zero there. Throws where widths differ.</summary>
    public static ControlVector operator +(ControlVector a, ControlVector b) => Combine(a, b, 1);

    /// <summary>As the sum, with b negated.</summary>
    public static ControlVector operator -(ControlVector a, ControlVector b) => Combine(a, b, -1);

    /// <summary>The opposite vector.</summary>
    public static ControlVector operator -(ControlVector a) => a.Map(v => -v);

    /// <summary>Every value times a number, in fp32.</summary>
    public static ControlVector operator *(ControlVector a, float factor) => a.Map(v => v * factor);

    /// <summary>Every value times a number, in fp32.</summary>
    public static ControlVector operator *(float factor, ControlVector a) => a * factor;

    /// <summary>Every value times fl32(1/divisor), as upstream divides.</summary>
    public static ControlVector operator /(ControlVector a, float divisor)
    {
        if (divisor == 0)
            throw new UserErrorException("a control vector cannot be divided by 0");
        return a * (float)(1.0 / divisor);
    }

    /// <summary>Same family, same layers, same values; the order of layers does not count.</summary>
    public bool Equals(ControlVector? other) =>
        other is not null && IsOfSameFamily(other) && _directions.Count == other._directions.Count
        && _directions.All(d => other._directions.TryGetValue(d.Key, out Direction? o) && d.Value.Equals(o));

    /// <inheritdoc/>
    public override bool Equals(object? obj) => Equals(obj as ControlVector);

    /// <inheritdoc/>
    public override int GetHashCode() => HashCode.Combine(ModelType, _directions.Count);

    /// <summary>Number of the block that a layer name stands for, or null for a module's path.</summary>
    public static int? BlockOf(string layer) =>
        int.TryParse(layer, NumberStyles.None, CultureInfo.InvariantCulture, out int block) ? block : null;

    private ControlVector Map(Func<float, float> f) =>
        new(ModelType, _order.Select(l => KeyValuePair.Create(l, new Direction(Array.ConvertAll(_directions[l].Values, v => f(v)), _directions[l].Components))));

    private static ControlVector Combine(ControlVector a, ControlVector b, float sign)
    {
        return new ControlVector(a.ModelType, a._order.Concat(b._order.Where(l => !a._directions.ContainsKey(l))).Select(l => KeyValuePair.Create(l, Layer(l))));

        Direction Layer(string layer)
        {
            bool inA = a._directions.TryGetValue(layer, out Direction? x), inB = b._directions.TryGetValue(layer, out Direction? y);
            if (!inB)
                return x!;
            if (!inA)
                return new Direction(Array.ConvertAll(y!.Values, v => sign * v), y.Components);
            if (x!.Width != y!.Width)
                throw new UserErrorException($"control vectors of different widths at layer {layer}: {x.Width} and {y.Width}; they belong to different models");
            (float[] p, float[] q, int k) = x.Components == y.Components ? (x.Values, y.Values, x.Components) : (x.Sum(), y.Sum(), 1);
            return new Direction([.. p.Select((v, i) => v + sign * q[i])], k);
        }
    }
}
