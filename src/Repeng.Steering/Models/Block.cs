using Repeng.Autograd;
using Repeng.Kernels;
using Repeng.Runtime;

namespace Repeng.Steering.Models;

/// <summary>A linear layer: weight [out, in], bias [out] or none, and its dotted path.</summary>
public sealed record LinearModule(string Path, Tensor Weight, Tensor? Bias)
{
    /// <summary>Width of the input.</summary>
    public int Inputs => Weight.Cols;

    /// <summary>Width of the output.</summary>
    public int Outputs => Weight.Rows;

    /// <summary>The tensor of the model's files that the weight is a part of, and where it begins there in memory's order; null where it is one by itself. The part of a parameter (<see cref="Tensor.Part"/>), unless it was quantised at load.</summary>
    public (string Name, long Start)? WeightPart { get; init; }

    /// <summary>The same of the bias.</summary>
    public (string Name, long Start)? BiasPart { get; init; }
}

/// <summary>A norm: weight and, for LayerNorm, bias.</summary>
public sealed record NormModule(string Path, Tensor Weight, Tensor? Bias);

/// <summary>One decoder block, the same code for every family: <see cref="ModelConfig"/> says what is there.</summary>
public sealed class Block(ModelConfig config, int index)
{
    /// <summary>Dotted path, such as model.layers.3.</summary>
    public string Path { get; } = config.BlockPath(index);

    /// <summary>Number from 0.</summary>
    public int Index { get; } = index;

    internal NormModule? InputNorm, PostAttentionNorm, PreMlpNorm, PostMlpNorm, QueryNorm, KeyNorm;
    internal LinearModule? Query, Key, Value, FusedQkv, Gate, Up, FusedGateUp;
    internal LinearModule Output = null!;
    internal LinearModule? Down;
    internal Tensor? Sinks;

    /// <summary>The mixture of experts in the place of the MLP, or null.</summary>
    public Experts? Experts { get; internal set; }

    /// <summary>The block's linear layers in the order of the forward pass.</summary>
    public IEnumerable<LinearModule> Linears => new[] { FusedQkv, Query, Key, Value, Output, FusedGateUp, Gate, Up, Down }.OfType<LinearModule>().Concat(Experts?.Linears ?? []);

    /// <summary>Those that write into the residual stream.</summary>
    public IEnumerable<LinearModule> Writers => [Output, .. Down is null ? [] : (LinearModule[])[Down], .. Experts?.Writers ?? []];

    /// <summary>Width of the output of a norm of queries or keys, all heads of a token side by side; null for another module.</summary>
    internal int? HeadNormWidth(string module) =>
        module == QueryNorm?.Path ? config.NumHeads * config.HeadDim : module == KeyNorm?.Path ? config.NumKvHeads * config.HeadDim : null;

    /// <summary>Paths of everything in the block whose output can be read and changed, in the order of the forward pass but for the parts of attention and MLP, which come before these.</summary>
    internal IEnumerable<string> Modules =>
    [
        .. Paths(InputNorm), .. Linears.TakeWhile(l => l != Output).Select(l => l.Path), .. Paths(QueryNorm), .. Paths(KeyNorm), Output.Path, AttentionPath, .. Paths(PostAttentionNorm),
        .. Paths(PreMlpNorm), .. Linears.SkipWhile(l => l != Output).Skip(1).Select(l => l.Path), MlpPath, .. Paths(PostMlpNorm), Path,
    ];

    private static IEnumerable<string> Paths(NormModule? norm) => norm is null ? [] : [norm.Path];

    private string AttentionPath => $"{Path}.{config.Names.Attention}";

    private string MlpPath => $"{Path}.{config.Names.Mlp}";

    /// <summary>x [batch · length, d] → the block's output; temporaries end with the block.</summary>
    internal Tensor Forward(ForwardContext c, Tensor x)
    {
        Tape tape = c.Tape;
        using Tape.Scope scope = tape.BeginScope();
        Tensor h = InputNorm is null ? x : Norm(c, InputNorm, x, scope, IsReadAsIs(c, FusedQkv, Query, Key, Value));
        Tensor a = c.Out(AttentionPath, Attention(c, h, scope), scope);
        if (PostAttentionNorm is not null)
            a = Norm(c, PostAttentionNorm, a, scope);
        Tensor between = Add(tape, x, a), read = config.ParallelResidual ? x : between;
        h = PreMlpNorm is null ? read : Norm(c, PreMlpNorm, read, scope, Experts is null && IsReadAsIs(c, FusedGateUp, Gate, Up));
        Tensor m = c.Out(MlpPath, Experts?.Forward(c, h, scope) ?? Mlp(c, h, scope), scope);
        if (PostMlpNorm is not null)
            m = Norm(c, PostMlpNorm, m, scope);
        return scope.Keep(c.Out(Path, Add(tape, between, m), scope));
    }

    private Tensor Add(Tape tape, Tensor x, Tensor more) => tape.Add(x, config.ResidualScale == 1 ? more : tape.Scale(more, config.ResidualScale));

    private Tensor Attention(ForwardContext c, Tensor h, Tape.Scope scope)
    {
        Tape tape = c.Tape;
        int qWidth = config.NumHeads * config.HeadDim, kvWidth = config.NumKvHeads * config.HeadDim;
        int window = config.Windows[Index];
        (Tensor Cos, Tensor Sin)? angles = config.RotaryLayers?[Index] != false ? window > 0 ? c.LocalRope : c.Rope : null;
        // Norms of heads that nobody watches are one op with the rotary embedding.
        bool together = angles is not null && config is { Norm: NormKind.Rms, QkvClip: 0 } && QueryNorm?.Weight.Length == config.HeadDim && KeyNorm?.Weight.Length == config.HeadDim && !c.Watches(QueryNorm.Path) && !c.Watches(KeyNorm.Path);
        Tensor q, k, v;
        if (FusedQkv is not null)
        {
            Tensor qkv = Linear(c, FusedQkv, h, scope);
            bool byHead = config.QkvLayout == QkvLayout.ByHead;
            Tensor[] parts = byHead
                ? [.. tape.SplitColumns(tape.Reshape(qkv, h.Rows * config.NumHeads, 3 * config.HeadDim), config.HeadDim, config.HeadDim, config.HeadDim).Select(p => tape.Reshape(p, h.Rows, qWidth))]
                : tape.SplitColumns(qkv, qWidth, kvWidth, kvWidth);
            (q, k, v) = (parts[0], parts[1], parts[2]);
        }
        else
        {
            q = Linear(c, Query!, h, scope, mayRound: together);
            k = Linear(c, Key!, h, scope, mayRound: together);
            v = Linear(c, Value!, h, scope);
        }

        if (QueryNorm is not null && KeyNorm is not null && !together)
        {
            q = Norm(c, QueryNorm, q, scope);
            k = Norm(c, KeyNorm, k, scope);
        }

        if (config.QkvClip > 0)
            (q, k, v) = (Clip(q), Clip(k), Clip(v));

        if (together)
        {
            q = Turned(QueryNorm!, q);
            k = Turned(KeyNorm!, k);
        }
        else if (angles is { } rope)
        {
            q = tape.Rope(q, rope.Cos, rope.Sin, c.Positions, config.NumHeads, config.RotaryDim, config.RopeInterleaved);
            k = tape.Rope(k, rope.Cos, rope.Sin, c.Positions, config.NumKvHeads, config.RotaryDim, config.RopeInterleaved);
        }

        if (c.Prefixes is { Shared: true } prefixes)
            return Linear(c, Output, SharedAttention(c, prefixes, q, k, v, window), scope);

        int batch = c.Tokens.Batch, length = c.Tokens.Length, keys = length, capacity = 0;
        if (c.Cache is not null)
        {
            if (c.Step is null)
                c.Cache.Append(Index, k, v, length);
            else
                c.Cache.Append(Index, k, v, c.Step.Length);
            (k, v) = (c.Cache.Keys(Index), c.Cache.Values(Index));
            (keys, capacity) = (c.Step is null ? c.Cache.Length + length : c.Cache.Capacity, c.Cache.Capacity);
        }
        var args = new AttentionArgs(batch, length, keys, config.NumHeads, config.NumKvHeads, config.HeadDim,
            config.AttentionScale, config.AttentionSoftCap, window, capacity);
        Tensor o = tape.Attention(q, k, v, c.FirstKey, args, Sinks, c.Step?.Length);
        // With a sink a query that sees no key gives 0 there too.
        if (c.EagerPadding && Sinks is null)
            o = EagerPadding.Add(tape, c.Tokens, args, o, q, k, v);
        return Linear(c, Output, o, scope);

        Tensor Turned(NormModule norm, Tensor t) => tape.NormRope(t, norm.Weight, config.NormEps, config.NormOffset, angles!.Value.Cos, angles.Value.Sin, c.Positions, config.RotaryDim, config.RopeInterleaved);

        Tensor Clip(Tensor t) => tape.Unary(tape.Unary(t, UnaryOp.Min, config.QkvClip), UnaryOp.Max, -config.QkvClip);
    }

    // Texts are put together of the tokens that they share, a part of the batch at a time, and what attention gives for each token is taken from the text that brings it.
    private Tensor SharedAttention(ForwardContext c, SharedPrefixes prefixes, Tensor q, Tensor k, Tensor v, int window)
    {
        Tape tape = c.Tape;
        int rows = c.Tokens.Length, qWidth = config.NumHeads * config.HeadDim, kvWidth = config.NumKvHeads * config.HeadDim;
        (q, k, v) = (tape.Reshape(q, rows, qWidth), tape.Reshape(k, rows, kvWidth), tape.Reshape(v, rows, kvWidth));
        Tensor[] outputs = [.. prefixes.Parts.Zip(c.PartIndices, (part, index) =>
        {
            var args = new AttentionArgs(part.Batch, part.QueryLength, part.KeyLength, config.NumHeads, config.NumKvHeads, config.HeadDim,
                config.AttentionScale, config.AttentionSoftCap, window);
            Tensor o = tape.Attention(tape.GatherRows(q, index.Queries), tape.GatherRows(k, index.Keys), tape.GatherRows(v, index.Keys), index.FirstKey, args, Sinks);
            return tape.Reshape(o, part.Queries.Length, qWidth);
        })];
        return tape.GatherRows(outputs.Length == 1 ? outputs[0] : tape.ConcatRows(outputs), c.PartOutputs!);
    }

    private Tensor Mlp(ForwardContext c, Tensor h, Tape.Scope scope)
    {
        Tape tape = c.Tape;
        Tensor inner;
        if (FusedGateUp is not null)
        {
            Tensor[] parts = tape.SplitColumns(Linear(c, FusedGateUp, h, scope), config.IntermediateSize, config.IntermediateSize);
            inner = tape.Gated(parts[0], parts[1], config.Activation);
        }
        else if (Gate is not null)
        {
            Tensor gate = Linear(c, Gate, h, scope, mayRound: true), up = Linear(c, Up!, h, scope, mayRound: true);
            inner = tape.Gated(gate, up, config.Activation, IsReadAsIs(c, Down));
        }
        else
        {
            inner = tape.Unary(Linear(c, Up!, h, scope), config.Activation);
        }
        return Linear(c, Down!, inner, scope);
    }

    /// <summary>One linear layer with what the pass does to it. mayRound: what reads it takes <see cref="IBackend.LayerType"/> too, which who watches it does not.</summary>
    internal static Tensor Linear(ForwardContext c, LinearModule module, Tensor x, Tape.Scope scope, bool mayRound = false) =>
        c.Out(module.Path, c.Adapter?.Output(c.Tape, module, x) ?? c.Tape.Linear(x, module.Weight, module.Bias, c.Adapter?.Term(module.Path), mayRound && !c.Watches(module.Path)), scope);

    private Tensor Norm(ForwardContext c, NormModule norm, Tensor x, Tape.Scope scope, bool mayRound = false) => c.Out(norm.Path, DecoderModel.ApplyNorm(c.Tape, config, norm, x, mayRound && !c.Watches(norm.Path)), scope);

    // Whether layers are products of their input alone: none is an adapter's own computation.
    private static bool IsReadAsIs(ForwardContext c, params ReadOnlySpan<LinearModule?> layers)
    {
        foreach (LinearModule? layer in layers)
            if (layer is not null && c.Adapter?.Computes(layer.Path) == true)
                return false;
        return true;
    }
}
