using Repeng.Autograd;
using Repeng.Kernels;
using Repeng.Runtime;
using Repeng.Steering.Models;

namespace Repeng.Steering.Adapters.Peft;

/// <summary>The adapter of one linear layer y = x·Wᵀ + b by one of PEFT's methods. Owns its tensors.</summary>
public abstract class PeftLayer(LinearModule module) : IDisposable
{
    private readonly List<(string Key, Tensor Value)> _stored = [];
    private readonly List<Tensor> _owned = [];

    /// <summary>The adapted layer.</summary>
    public LinearModule Module { get; } = module;

    /// <summary>Its dotted path.</summary>
    public string Path => Module.Path;

    /// <summary>Tensors of the file, with the part of their names after the path.</summary>
    public IReadOnlyList<(string Key, Tensor Value)> Stored => _stored;

    /// <summary>Those of them that are trained.</summary>
    public IEnumerable<Tensor> Trained => _stored.Select(s => s.Value).Where(t => t.RequiresGrad);

    /// <summary>At c = 0 the layer is the base layer.</summary>
    internal virtual bool IsBaseAtZero => true;

    /// <summary>What depends on the coefficient and the parameters but not on the tokens.</summary>
    internal virtual Tensor[] Prepare(Tape tape, float c) => [];

    /// <summary>y [tokens, out] of x [tokens, in]; prepared gives what <see cref="Prepare"/> made for a coefficient.</summary>
    internal abstract Tensor Forward(Tape tape, Tensor x, CoefficientRows rows, Func<float, Tensor[]> prepared);

    /// <summary>Weight [out, in] and bias of a plain linear layer that computes the same at a coefficient. Sums in double.</summary>
    public abstract (float[] Weight, float[]? Bias) Merge(float c);

    /// <summary>Afterwards c does what −c did.</summary>
    internal abstract void Negate();

    /// <inheritdoc/>
    public void Dispose()
    {
        foreach (Tensor t in _owned)
            t.Dispose();
    }

    /// <summary>Owns a tensor.</summary>
    protected Tensor Own(Tensor t)
    {
        _owned.Add(t);
        return t;
    }

    /// <summary>Owns a tensor of the file.</summary>
    protected Tensor Store(string key, Tensor t, bool trained = true)
    {
        (t.Name, t.RequiresGrad, t.RetainGrad) = ($"{Path}.{key}", trained, trained);
        _stored.Add((key, t));
        return Own(t);
    }

    /// <summary>t ← p·t.</summary>
    private protected static void Scale(Tensor t, float p) => t.Device.Backend.Unary(t.Data, t.Data, t.Length, UnaryOp.Scale, p);

    /// <summary>t ← 2 − t: a factor on the other side of one.</summary>
    private protected static void Mirror(Tensor t)
    {
        Scale(t, -1);
        t.Device.Backend.Unary(t.Data, t.Data, t.Length, UnaryOp.Offset, 2);
    }

    /// <summary>The base weight [out, in] on the host.</summary>
    private protected float[] Weight() => Module.Weight.Device.Backend is Kernels.Dry.DryBackend ? new float[Module.Weight.Length] : WeightReader.ToHost(Module.Weight);

    private protected float[]? Bias() => Module.Bias is null ? null : WeightReader.ToHost(Module.Bias);

    private protected static double[] Wide(Tensor t) => Array.ConvertAll(t.ToArray(), x => (double)x);
}

/// <summary>A layer whose adapter adds a low-rank product to the weight: y + B·D·A·x in some form.</summary>
public abstract class LowRankLayer(LinearModule module) : PeftLayer(module)
{
    /// <summary>What the adapter adds to W at a coefficient, as factors [out, r] and [r, in]; proportional to c.</summary>
    public abstract (double[] Left, double[] Right) Factors(float c);

    /// <summary>
    /// The adapter as a term of the base product, for passes of one token a row: made once a generation and used for every token,
    /// so that its two products run with the weight's own. Rows at c = 0 get none. Null where the layer is more than a product.
    /// </summary>
    internal LowRankTerm? Term(Tape tape, CoefficientRows rows)
    {
        if (!IsBaseAtZero)
            return null;
        (double[] left, double[] right) = Factors(1);
        int r = left.Length / Module.Outputs;
        Tensor down = tape.Constant(Array.ConvertAll(right, x => (float)x), r, Module.Inputs), up = tape.Constant(Array.ConvertAll(left, x => (float)x), Module.Outputs, r);
        Tensor one = tape.Constant(Identity(r, 1), r, r);
        var m = rows.Distinct.ToDictionary(c => c, c => tape.Constant(Identity(r, c), r, r));
        return new LowRankTerm(tape.MatMul(down, one, transA: true), up, [.. rows.Runs().Select(run => new LowRankSegment(run.Start, run.Count, m[run.C]))]) { Down = down };
    }

    private static float[] Identity(int r, float value)
    {
        var diagonal = new float[r * r];
        for (int i = 0; i < r; i++)
            diagonal[i * r + i] = value;
        return diagonal;
    }

    /// <inheritdoc/>
    public override (float[] Weight, float[]? Bias) Merge(float c)
    {
        (double[] left, double[] right) = Factors(c);
        float[] w = Weight();
        LowRankProduct.AddTo(w, Module.Inputs, left, right);
        return (w, Bias());
    }
}
