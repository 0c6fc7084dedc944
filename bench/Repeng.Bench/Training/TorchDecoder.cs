using Repeng.Kernels;
using Repeng.Steering.Models;
using TorchSharp;
using static TorchSharp.torch;
using Tensor = TorchSharp.torch.Tensor;

namespace Repeng.Bench.Training;

/// <summary>
/// A llama decoder in libtorch as transformers writes it for the CPU: RMSNorm and rotary embedding from elementwise ops, grouped
/// queries by repeated keys and values, scaled_dot_product_attention with a mask, SwiGLU. Every part has its own scope, so that
/// intermediates that the backward pass does not need are freed at once, as reference counts do in Python.
/// </summary>
internal sealed class TorchDecoder : IDisposable
{
    private readonly ModelConfig _config;
    private readonly Dictionary<string, Tensor> _weights = [];

    /// <param name="type">What weights are held, and products, attention and activations computed in; norms take the mean of squares in fp32.</param>
    public TorchDecoder(DecoderModel model, ScalarType type = ScalarType.Float32)
    {
        (_config, Type) = (model.Config, type);
        foreach ((string name, Repeng.Runtime.Tensor weight) in model.Parameters)
            _weights[name] = tensor(weight.ToArray(), [.. weight.Shape.Select(n => (long)n)]).to(type).DetachFromDisposeScope();
    }

    public ScalarType Type { get; }

    /// <summary>Weight of the head [vocabulary, d]; tied.</summary>
    public Tensor Head => Weight($"{_config.Prefix}{_config.Embedding}");

    /// <summary>The weight [out, in] of a module by its dotted path.</summary>
    public Tensor Weight(string module) => _weights[$"{module}.weight"];

    /// <summary>
    /// Hidden states [batch, length, d] after the final norm. The adapter may be null (off); the taps keep outputs of modules, and
    /// blocks those of all blocks, from the first of which on the graph goes where they are differentiated.
    /// </summary>
    public Tensor Forward(TorchInput input, TorchAdapter? adapter, TorchTaps taps, List<Tensor>? blocks = null, bool differentiate = false)
    {
        Tensor x = Head[input.Ids];
        for (int i = 0; i < _config.NumLayers; i++)
        {
            using DisposeScope scope = NewDisposeScope();
            x = Block(i, x).MoveToOuterDisposeScope();
            if (blocks is null)
                continue;
            if (differentiate && i == 0)
                x = x.detach().requires_grad_().MoveToOuterDisposeScope();
            else if (differentiate)
                x.retain_grad();
            blocks.Add(x);
        }
        return Norm(x, $"{_config.Prefix}{_config.FinalNorm}");

        Tensor Linear(Tensor h, string path)
        {
            Tensor y = adapter is not null && adapter.TryForward(path, h, out Tensor adapted) ? adapted : nn.functional.linear(h, Weight(path));
            taps.Offer(path, y);
            return y;
        }

        Tensor Block(int index, Tensor h)
        {
            string path = _config.BlockPath(index);
            BlockNames n = _config.Names;
            h = h + Attention($"{path}.{n.Attention}", Norm(h, $"{path}.{n.InputNorm}"));
            return h + Mlp($"{path}.{n.Mlp}", Norm(h, $"{path}.{n.PreMlpNorm}"));
        }

        Tensor Attention(string path, Tensor h)
        {
            using DisposeScope scope = NewDisposeScope();
            long batch = h.shape[0], length = h.shape[1];
            Tensor Heads(string name, int heads) => Linear(h, $"{path}.{name}").view(batch, length, heads, _config.HeadDim).transpose(1, 2);
            Tensor q = Rotate(Heads("q_proj", _config.NumHeads), input), k = Rotate(Heads("k_proj", _config.NumKvHeads), input), v = Heads("v_proj", _config.NumKvHeads);
            Tensor o = nn.functional.scaled_dot_product_attention(q, Repeat(k), Repeat(v), input.Mask);
            o = o.transpose(1, 2).reshape(batch, length, _config.NumHeads * _config.HeadDim);
            return Linear(o, $"{path}.{_config.Names.Output}").MoveToOuterDisposeScope();
        }

        Tensor Mlp(string path, Tensor h)
        {
            using DisposeScope scope = NewDisposeScope();
            Tensor gate = Linear(h, $"{path}.gate_proj"), up = Linear(h, $"{path}.{_config.Names.Up}");
            Tensor y = Linear(nn.functional.silu(gate) * up, $"{path}.{_config.Names.Down}");
            return y.MoveToOuterDisposeScope();
        }
    }

    public void Dispose()
    {
        foreach (Tensor w in _weights.Values)
            w.Dispose();
    }

    private Tensor Norm(Tensor x, string path)
    {
        using DisposeScope scope = NewDisposeScope();
        Tensor exact = x.to(float32), variance = exact.pow(2).mean([-1], keepdim: true);
        return (Weight(path) * (exact * rsqrt(variance + _config.NormEps)).to(Type)).MoveToOuterDisposeScope();
    }

    private Tensor Repeat(Tensor x)
    {
        int group = _config.NumHeads / _config.NumKvHeads;
        return x.unsqueeze(2).expand(x.shape[0], x.shape[1], group, x.shape[2], x.shape[3]).reshape(x.shape[0], _config.NumHeads, x.shape[2], x.shape[3]);
    }

    private static Tensor Rotate(Tensor x, TorchInput input)
    {
        using DisposeScope scope = NewDisposeScope();
        Tensor[] halves = x.chunk(2, -1);
        Tensor turned = cat([-halves[1], halves[0]], -1);
        return ((x * input.Cos) + (turned * input.Sin)).MoveToOuterDisposeScope();
    }
}

/// <summary>
/// A batch for <see cref="TorchDecoder"/>: ids [batch, length], rotary tables [batch, 1, length, head size] at each token's position,
/// and the mask [batch, 1, length, length], true where a query sees a key.
/// </summary>
internal sealed record TorchInput(Tensor Ids, Tensor Cos, Tensor Sin, Tensor Mask) : IDisposable
{
    public static TorchInput From(TokenBatch batch, ModelConfig config, ScalarType type = ScalarType.Float32)
    {
        using DisposeScope scope = NewDisposeScope();
        (int rows, int length) = (batch.Batch, batch.Length);
        Tensor frequency = pow(config.Rope!.Theta, arange(0, config.HeadDim, 2, dtype: float64).neg() / config.HeadDim);
        Tensor angle = tensor(batch.Positions(), rows, 1, length, 1).to(float64) * frequency;
        angle = cat([angle, angle], -1);
        // Padding sees itself: a row that sees nothing would be NaN, and nothing reads padding.
        Tensor key = arange(length), mask = (key.unsqueeze(0) <= key.unsqueeze(1)).unsqueeze(0) & (key >= tensor(batch.Starts).unsqueeze(1)).unsqueeze(1);
        mask = (mask | eye(length, dtype: @bool).unsqueeze(0)).unsqueeze(1);
        return new TorchInput(tensor(batch.Ids, rows, length).to(int64).DetachFromDisposeScope(), angle.cos().to(type).DetachFromDisposeScope(),
            angle.sin().to(type).DetachFromDisposeScope(), mask.contiguous().DetachFromDisposeScope());
    }

    public void Dispose()
    {
        foreach (Tensor t in new[] { Ids, Cos, Sin, Mask })
            t.Dispose();
    }
}

/// <summary>Keeps the outputs of some modules for as long as a scope lives.</summary>
internal sealed class TorchTaps(IReadOnlyCollection<string> modules, DisposeScope scope)
{
    private readonly Dictionary<string, Tensor> _outputs = [];

    public Tensor this[string module] => _outputs[module];

    public void Offer(string module, Tensor output)
    {
        if (modules.Contains(module))
            _outputs[module] = output.alias().MoveToOtherDisposeScope(scope);
    }
}
