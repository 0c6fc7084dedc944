using System.Runtime.InteropServices;
using Repeng.Autograd;
using Repeng.Kernels;
using Repeng.Runtime;

namespace Repeng.Steering.Adapters;

/// <summary>
/// The adapter of one linear layer: bases U [out, r], S [r], V [in, r] (frozen) and the trained scale vector [r]
/// and rotation matrices P [r, r]. Owns them.
/// </summary>
public sealed class SvdLayer : IDisposable
{
    private readonly SvdAdapterConfig _config;
    private RoundedFactors? _rounded;

    /// <summary>Takes ownership of the tensors; parameters may be null where the settings have none.</summary>
    public SvdLayer(SvdAdapterConfig config, string path, Tensor u, Tensor s, Tensor v, Tensor? scale, Tensor? rotationU, Tensor? rotationV)
    {
        (_config, Path, U, S, V, Scale, RotationU, RotationV) = (config, path, u, s, v, scale, rotationU, rotationV);
        int r = (int)s.Length;
        float[] values = s.ToArray();
        var diagonal = new float[r * r];
        var one = new float[r * r];
        for (int i = 0; i < r; i++)
            (diagonal[i * r + i], one[i * r + i]) = (values[i], 1);
        DiagonalS = Tensor.From(s.Device, diagonal, r, r);
        Identity = Tensor.From(s.Device, one, r, r);
        foreach ((string suffix, Tensor p) in Parameters)
            (p.Name, p.RequiresGrad, p.RetainGrad) = ($"{path}.{suffix}", true, true);
    }

    /// <summary>Dotted path of the linear layer.</summary>
    public string Path { get; }

    /// <summary>Left singular vectors [out, r].</summary>
    public Tensor U { get; }

    /// <summary>Singular values [r].</summary>
    public Tensor S { get; }

    /// <summary>Right singular vectors [in, r].</summary>
    public Tensor V { get; }

    /// <summary>Scale parameter [r], or null.</summary>
    public Tensor? Scale { get; }

    /// <summary>Rotation parameter of U: [r, r], or [r / block, block, block].</summary>
    public Tensor? RotationU { get; }

    /// <summary>Rotation parameter of V.</summary>
    public Tensor? RotationV { get; }

    /// <summary>Trained tensors with the last part of their names.</summary>
    public IEnumerable<(string Suffix, Tensor Value)> Parameters
    {
        get
        {
            if (Scale is not null)
                yield return (_config.ScaleParameter, Scale);
            if (RotationU is not null)
                yield return (_config.RotationPrefix + "u", RotationU);
            if (RotationV is not null)
                yield return (_config.RotationPrefix + "v", RotationV);
        }
    }

    /// <summary>diag S [r, r].</summary>
    internal Tensor DiagonalS { get; }

    /// <summary>The identity [r, r].</summary>
    internal Tensor Identity { get; }

    /// <summary>M(c) of this layer alone; see <see cref="SvdDeltas.Of"/>.</summary>
    public Tensor Delta(Tape tape, float c) => SvdDeltas.Of(tape, _config, [this], c)[0];

    /// <summary>
    /// The change of the weight at a coefficient, U·M(c)ᵀ·Vᵀ, as factors [out, r] and [r, in]: its rank is r, so that a LoRA of
    /// rank r says the same. Host values in double.
    /// </summary>
    public (double[] Left, double[] Right) Factors(float c)
    {
        using var tape = new Tape(U.Device, record: false);
        int r = U.Cols, outputs = U.Rows, inputs = V.Rows;
        float[] m = Delta(tape, c).ToArray(), u = U.ToArray(), v = V.ToArray();
        double[] left = new double[outputs * r], right = new double[r * inputs];
        for (int o = 0; o < outputs; o++)
            for (int k = 0; k < r; k++)
                for (int q = 0; q < r; q++)
                    left[o * r + k] += (double)u[o * r + q] * m[k * r + q];
        for (int i = 0; i < inputs; i++)
            for (int k = 0; k < r; k++)
                right[k * inputs + i] = v[i * r + k];
        return (left, right);
    }

    /// <summary>Adds the change at a coefficient to a weight [out, in].</summary>
    public void AddTo(float[] weight, float c)
    {
        (double[] left, double[] right) = Factors(c);
        LowRankProduct.AddTo(weight, V.Rows, left, right);
    }

    /// <summary>The first factor of the adapted term for decoding, [r, in]: (V·M)ᵀ, or Vᵀ where m is null.</summary>
    public Tensor Down(Tape tape, Tensor? m) => tape.MatMul(m ?? Identity, V, transA: true, transB: true);

    /// <summary>U and V in bf16, made when they are first asked for: neither ever changes.</summary>
    internal RoundedFactors Rounded()
    {
        if (_rounded is null)
        {
            float[] v = V.ToArray(), u = U.ToArray();
            int r = V.Cols, inputs = V.Rows;
            var turned = new float[v.Length];
            for (int i = 0; i < inputs; i++)
                for (int k = 0; k < r; k++)
                    turned[k * inputs + i] = v[i * r + k];
            _rounded = new RoundedFactors(Halves(v, inputs, r), Halves(u, U.Rows, r), Halves(turned, r, inputs));
        }
        return _rounded;
    }

    // Nearest even.
    private Tensor Halves(float[] values, int rows, int cols)
    {
        ushort[] halves = Array.ConvertAll(values, v => (ushort)((BitConverter.SingleToUInt32Bits(v) + 0x7FFF + (BitConverter.SingleToUInt32Bits(v) >> 16 & 1)) >> 16));
        var t = new Tensor(V.Device, DType.BF16, rows, cols);
        t.Device.Backend.Upload(t.Data, MemoryMarshal.AsBytes(halves.AsSpan()));
        return t;
    }

    /// <summary>R(c) [r, r] of a rotation parameter.</summary>
    public Tensor Rotation(Tape tape, Tensor p, float c) => SvdDeltas.Rotation(tape, _config, p, c);

    /// <inheritdoc/>
    public void Dispose()
    {
        foreach (Tensor t in new[] { U, S, V, DiagonalS, Identity }.Concat(Parameters.Select(p => p.Value)))
            t.Dispose();
        if (_rounded is not { } rounded)
            return;
        rounded.V.Dispose();
        rounded.U.Dispose();
        rounded.Turned.Dispose();
    }
}
