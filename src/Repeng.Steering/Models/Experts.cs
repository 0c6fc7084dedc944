using Repeng.Autograd;
using Repeng.Kernels;
using Repeng.Runtime;

namespace Repeng.Steering.Models;

/// <summary>One expert: the linear layers of its gated MLP.</summary>
public sealed record Expert(LinearModule Gate, LinearModule Up, LinearModule Down);

/// <summary>
/// The mixture of experts of one block. Rows are sorted by expert, go through products of groups, and are put together with
/// the router's weights in a fixed order: no loop over tokens, the same bits at any number of threads, and an expert
/// that no token chose costs nothing.
/// </summary>
public sealed class Experts(ModelConfig config, ExpertConfig experts)
{
    /// <summary>The router: a logit for each expert.</summary>
    public LinearModule Router { get; internal set; } = null!;

    /// <summary>The experts by number.</summary>
    public IReadOnlyList<Expert> All { get; internal set; } = null!;

    /// <summary>The expert that every token goes through, or null.</summary>
    public Expert? Shared { get; internal set; }

    /// <summary>Weight of the shared expert for a token before the sigmoid, [1, d]; null without one.</summary>
    public LinearModule? SharedGate { get; internal set; }

    /// <summary>Linear layers in the order of the forward pass.</summary>
    public IEnumerable<LinearModule> Linears =>
    [
        Router, .. All.SelectMany(Of), .. Shared is null ? [] : Of(Shared), .. SharedGate is null ? [] : (LinearModule[])[SharedGate],
    ];

    /// <summary>Those that write into the residual stream.</summary>
    public IEnumerable<LinearModule> Writers => [.. All.Select(e => e.Down), .. Shared is null ? [] : (LinearModule[])[Shared.Down]];

    /// <summary>h [tokens, d] → [tokens, d].</summary>
    internal Tensor Forward(ForwardContext c, Tensor h, Tape.Scope scope)
    {
        Tape tape = c.Tape;
        (Tensor weights, int[] chosen) = tape.Route(Block.Linear(c, Router, h, scope), experts.PerToken, experts.NormaliseWeights);
        var rows = new ExpertRows(tape, chosen, experts.PerToken, All.Count);
        Tensor x = tape.GatherRows(h, rows.Tokens);
        Tensor gate = Linear(c, rows, e => e.Gate, x, scope), up = Linear(c, rows, e => e.Up, x, scope);
        Tensor inner = experts.ClampedGate is { } clamp ? tape.ClampedGated(gate, up, clamp.Alpha, clamp.Limit) : tape.Gated(gate, up, config.Activation);
        Tensor y = tape.Combine(Linear(c, rows, e => e.Down, inner, scope), rows.Place, weights);
        if (Shared is null)
            return y;
        Tensor shared = Block.Linear(c, Shared.Down, tape.Gated(Block.Linear(c, Shared.Gate, h, scope), Block.Linear(c, Shared.Up, h, scope), config.Activation), scope);
        Tensor weight = tape.Unary(Block.Linear(c, SharedGate!, h, scope), UnaryOp.Sigmoid);
        return tape.Add(y, tape.Multiply(shared, weight, Broadcast.OverCols));
    }

    // One layer of every expert. Layers that something changes or reads go by themselves, all others in one go.
    private Tensor Linear(ForwardContext c, ExpertRows rows, Func<Expert, LinearModule> layer, Tensor x, Tape.Scope scope)
    {
        Tape tape = c.Tape;
        var parts = new List<Tensor>();
        var run = new List<LinearGroup>();
        int start = 0, end = 0;
        for (int e = 0; e < All.Count; e++)
        {
            LinearModule module = layer(All[e]);
            bool alone = c.Watches(module.Path) || rows.Count(e) > 0 && c.Adapter?.Computes(module.Path) == true;
            if (alone)
            {
                Flush(rows.Start(e));
                int[] tokens = rows.TokensOf(e);
                Tensor? y = null;
                if (tokens.Length > 0)
                {
                    Tensor part = tape.SliceRows(x, rows.Start(e), tokens.Length);
                    y = c.Adapter?.Output(tape, module, part, tokens) ?? tape.Linear(part, module.Weight, module.Bias, c.Adapter?.Term(module.Path)?.At(tokens));
                }
                if (c.Out(module, y, tokens, rows.TokenCount, scope) is { } watched)
                    parts.Add(watched);
                start = end = rows.Start(e) + tokens.Length;
                continue;
            }
            if (rows.Count(e) > 0)
                run.Add(new LinearGroup(end - start, rows.Count(e), module.Weight, module.Bias, c.Adapter?.Term(module.Path)?.At(rows.TokensOf(e))));
            end += rows.Count(e);
        }
        Flush(end);
        return parts is [var only] ? only : tape.ConcatRows([.. parts]);

        void Flush(int to)
        {
            if (run.Count > 0)
                parts.Add(tape.LinearGroups(start == 0 && to == x.Rows ? x : tape.SliceRows(x, start, to - start), [.. run]));
            run.Clear();
        }
    }

    private static IEnumerable<LinearModule> Of(Expert e) => [e.Gate, e.Up, e.Down];
}
