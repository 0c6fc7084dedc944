using Repeng.Steering.Adapters;
using TorchSharp;
using TorchSharp.Modules;
using static TorchSharp.torch;
using Tensor = TorchSharp.torch.Tensor;

namespace Repeng.Bench.Training;

/// <summary>
/// The SVD adapter in the reference's form: y = x·W_resᵀ + ((x·V_c) ∘ S_c)·U_cᵀ with the residual weight kept in full, V_c = V·R_v(c),
/// U_c = U·R_u(c), S_c = S·e^(cλ) and Cayley rotations by a linear solve. All coefficients go through one batched product.
/// </summary>
internal sealed class TorchAdapter : IDisposable
{
    private readonly Dictionary<string, Layer> _layers = [];
    private readonly Dictionary<string, (Tensor U, Tensor S, Tensor V)> _turned = [];
    private readonly ScalarType _type;
    private Tensor _coefficients = null!;

    private sealed record Layer(Tensor U, Tensor S, Tensor V, Tensor Residual, Parameter Scale, Parameter RotationU, Parameter RotationV);

    public TorchAdapter(SvdAdapter adapter, TorchDecoder decoder)
    {
        _type = decoder.Type;
        foreach ((string path, SvdLayer layer) in adapter.Layers)
        {
            Tensor u = Copy(layer.U), s = Copy(layer.S), v = Copy(layer.V);
            using Tensor low = (u * s).mm(v.t());
            _layers[path] = new Layer(u, s, v, (decoder.Weight(path).to(float32) - low).to(_type).DetachFromDisposeScope(), Trained(layer.Scale!), Trained(layer.RotationU!), Trained(layer.RotationV!));
        }
    }

    /// <summary>Trained tensors, in the order of <see cref="SvdAdapter.Parameters"/>.</summary>
    public IReadOnlyList<Parameter> Parameters => [.. _layers.Values.SelectMany(l => new[] { l.Scale, l.RotationU, l.RotationV })];

    /// <summary>Rotated bases and scaled values at every coefficient, for one pass; they belong to the current scope.</summary>
    public void Prepare(float[] coefficients)
    {
        _coefficients = tensor(coefficients);
        foreach ((string path, Layer l) in _layers)
        {
            using DisposeScope scope = NewDisposeScope();
            Tensor scaled = l.S * exp(_coefficients.unsqueeze(1) * l.Scale);
            Tensor v = matmul(l.V, Cayley(l.RotationV)).to(_type), u = matmul(l.U, Cayley(l.RotationU)).to(_type);
            _turned[path] = (u.MoveToOuterDisposeScope(), scaled.unsqueeze(1).to(_type).MoveToOuterDisposeScope(), v.MoveToOuterDisposeScope());
        }
    }

    /// <summary>The adapted layer, where there is one; rows of x [coefficients·batch, length, in] are ordered by coefficient.</summary>
    public bool TryForward(string path, Tensor x, out Tensor y)
    {
        if (!_layers.TryGetValue(path, out Layer? layer))
        {
            y = x;
            return false;
        }
        using DisposeScope scope = NewDisposeScope();
        (Tensor u, Tensor s, Tensor v) = _turned[path];
        long n = _coefficients.shape[0];
        Tensor low = bmm(x.view(n, -1, x.shape[2]), v) * s;
        Tensor main = nn.functional.linear(x, layer.Residual);
        // TorchSharp 0.107 takes the operands in the order batch1, batch2, input, whatever its parameters are called.
        y = low.baddbmm(u.transpose(1, 2), main.view(n, -1, main.shape[2]), 1, 1).view(main.shape).MoveToOuterDisposeScope();
        return true;
    }

    public void Dispose()
    {
        foreach (Layer l in _layers.Values)
            foreach (Tensor t in new[] { l.U, l.S, l.V, l.Residual, l.Scale, l.RotationU, l.RotationV })
                t.Dispose();
    }

    // R(c) [coefficients, r, r] = (I − cA/2)⁻¹(I + cA/2) with A = P − Pᵀ.
    private Tensor Cayley(Tensor p)
    {
        Tensor x = _coefficients.view(-1, 1, 1) * (p - p.t()) / 2;
        Tensor one = eye(p.shape[0]);
        return linalg.solve(one - x, one + x);
    }

    private static Tensor Copy(Repeng.Runtime.Tensor t) => tensor(t.ToArray(), [.. t.Shape.Select(n => (long)n)]).DetachFromDisposeScope();

    private static Parameter Trained(Repeng.Runtime.Tensor t)
    {
        var p = new Parameter(Copy(t), requires_grad: true);
        p.DetachFromDisposeScope();
        return p;
    }
}
