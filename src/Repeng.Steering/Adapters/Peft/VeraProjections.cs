using Repeng.Runtime;
using Repeng.Steering.Models;

namespace Repeng.Steering.Adapters.Peft;

/// <summary>
/// The random matrices that all VeRA layers share: A [r, widest input], B [widest output, r]; a layer uses the top left part.
/// Parts of one size are kept once.
/// </summary>
public sealed class VeraProjections : IDisposable
{
    private readonly Device _device;
    private readonly Dictionary<int, Tensor> _a = [], _b = [];

    /// <summary>Takes the values, row by row.</summary>
    public VeraProjections(Device device, int rank, int inputs, int outputs, float[] a, float[] b)
    {
        if (a.Length != rank * inputs || b.Length != outputs * rank)
            throw new ArgumentException($"projections of {a.Length} and {b.Length} values for rank {rank}, {inputs} inputs, {outputs} outputs");
        (_device, Rank, Inputs, Outputs, A, B) = (device, rank, inputs, outputs, a, b);
    }

    /// <summary>r.</summary>
    public int Rank { get; }

    /// <summary>Columns of A.</summary>
    public int Inputs { get; }

    /// <summary>Rows of B.</summary>
    public int Outputs { get; }

    /// <summary>A [r, widest input].</summary>
    public float[] A { get; }

    /// <summary>B [widest output, r].</summary>
    public float[] B { get; }

    /// <summary>The projections that PEFT draws from a key: A first, then B, from one generator.</summary>
    public static VeraProjections Draw(Device device, int rank, IReadOnlyList<LinearModule> targets, long key)
    {
        int inputs = targets.Max(t => t.Inputs), outputs = targets.Max(t => t.Outputs);
        var random = new MersenneTwister(key);
        float[] a = random.KaimingUniform(rank, inputs);
        return new VeraProjections(device, rank, inputs, outputs, a, random.KaimingUniform(outputs, rank));
    }

    /// <summary>A for a layer, [r, inputs].</summary>
    public Tensor Down(int inputs)
    {
        if (_a.TryGetValue(inputs, out Tensor? made))
            return made;
        var part = new float[Rank * inputs];
        for (int q = 0; q < Rank; q++)
            A.AsSpan(q * Inputs, inputs).CopyTo(part.AsSpan(q * inputs));
        return _a[inputs] = Tensor.From(_device, part, Rank, inputs);
    }

    /// <summary>B for a layer, [outputs, r].</summary>
    public Tensor Up(int outputs) => _b.TryGetValue(outputs, out Tensor? made) ? made : _b[outputs] = Tensor.From(_device, B.AsSpan(0, outputs * Rank), outputs, Rank);

    /// <inheritdoc/>
    public void Dispose()
    {
        foreach (Tensor t in _a.Values.Concat(_b.Values))
            t.Dispose();
    }
}
