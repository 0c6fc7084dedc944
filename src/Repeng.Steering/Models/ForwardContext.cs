using Repeng.Autograd;
using Repeng.Kernels;
using Repeng.Runtime;

namespace Repeng.Steering.Models;

/// <summary>Gives linear layers their adapter's term or output in one pass; made by an adapter for the coefficients of the rows.</summary>
public interface IAdapterPass
{
    /// <summary>The term of a linear layer by its dotted path, or null where it is not adapted.</summary>
    LowRankTerm? Term(string module);

    /// <summary>
    /// The output [rows, out] of an adapted linear layer for its input x [rows, in], bias included, where a term cannot say it:
    /// the input or the output is scaled or rotated, or the factors are trained. Null where <see cref="Term"/> says it all.
    /// </summary>
    /// <param name="tape">Runs the ops.</param>
    /// <param name="module">The linear layer.</param>
    /// <param name="x">Its input.</param>
    /// <param name="tokens">Which tokens of the batch the rows of x are, ascending (an expert of a mixture sees some of them); null for all.</param>
    Tensor? Output(Tape tape, LinearModule module, Tensor x, int[]? tokens = null) => null;

    /// <summary>Whether <see cref="Output"/> gives the output of a linear layer.</summary>
    bool Computes(string module) => false;

    /// <summary>Whether any parameter behind the terms requires a gradient.</summary>
    bool RequiresGrad { get; }

    /// <summary>Whether a block has adapted layers.</summary>
    bool Touches(int block);
}

/// <summary>Changes the outputs of modules while a pass runs, such as a control vector.</summary>
public interface IModuleEdit
{
    /// <summary>Whether a module's output (by dotted path) is to be changed.</summary>
    bool Touches(string module);

    /// <summary>A pass begins; what several modules need can be made here, on the pass's tape.</summary>
    void Begin(ForwardContext context)
    {
    }

    /// <summary>
    /// The output that takes the place of y [rows, width]. Rows are all tokens of the batch [batch · length], but of the head
    /// those that are asked for: tokens (I32) says which, null for all. A result that requires a gradient starts or goes on with the tape's graph.
    /// </summary>
    Tensor Apply(ForwardContext context, string module, Tensor y, Tensor? tokens);

    /// <summary>Whether what is added requires a gradient.</summary>
    bool RequiresGrad => false;
}

/// <summary>What changes from token to token of a decoding step, on the device.</summary>
/// <param name="Ids">I32 [batch]: the token of each sequence.</param>
/// <param name="Positions">I32 [batch]: its position.</param>
/// <param name="Length">I32 [1]: tokens that the cache holds before it.</param>
internal sealed record StepState(Tensor Ids, Tensor Positions, Tensor Length);

/// <summary>What one forward pass works with and what it brings back.</summary>
public sealed class ForwardContext
{
    /// <summary>A pass over a batch with a tape.</summary>
    public ForwardContext(Tape tape, TokenBatch tokens, KvCache? cache = null)
    {
        (Tape, Tokens, Cache) = (tape, tokens, cache);
    }

    /// <summary>A pass over texts that share their beginnings: all outputs have the rows that <see cref="SharedPrefixes.Row"/> says.</summary>
    public ForwardContext(Tape tape, SharedPrefixes texts)
        : this(tape, texts.Tokens) => Prefixes = texts;

    /// <summary>Runs and records the ops.</summary>
    public Tape Tape { get; }

    /// <summary>The input.</summary>
    public TokenBatch Tokens { get; }

    /// <summary>The texts whose tokens the input holds once each; null where it holds texts as they are.</summary>
    public SharedPrefixes? Prefixes { get; }

    /// <summary>Keys and values of earlier tokens; the new ones are appended.</summary>
    public KvCache? Cache { get; }

    /// <summary>Terms added to linear layers.</summary>
    public IAdapterPass? Adapter { get; init; }

    /// <summary>Changes outputs of modules; see <see cref="DecoderModel.Modules"/> for their names. Captured outputs are the changed ones.</summary>
    public IModuleEdit? Edit { get; init; }

    /// <summary>Modules (dotted paths) whose output is kept in <see cref="Outputs"/>; null keeps none.</summary>
    public Func<string, bool>? Capture { get; init; }

    /// <summary>
    /// Let the graph begin at captured outputs where nothing before them requires a gradient, and keep the gradient of
    /// each (<see cref="Tensor.Grad"/> after the backward pass): nothing below the first of them is differentiated.
    /// </summary>
    public bool DifferentiateCaptured { get; init; }

    /// <summary>Outputs of the captured modules, [batch · length, width]; of the head, which is no part of the pass itself, once <see cref="DecoderModel.Logits(ForwardContext, Tensor, int[])"/> has run.</summary>
    public Dictionary<string, Tensor> Outputs { get; } = [];

    /// <summary>Keep the residual stream: embeddings, then the output of every block (the last one after the final norm), as transformers' hidden_states.</summary>
    public bool KeepHiddenStates { get; init; }

    /// <summary>See <see cref="KeepHiddenStates"/>.</summary>
    public List<Tensor> HiddenStates { get; } = [];

    /// <summary>Run each block again in the backward pass rather than keep its activations.</summary>
    public bool CheckpointBlocks { get; init; }

    /// <summary>Last block to run; those after it and the final norm are left out. Null runs all.</summary>
    public int? LastBlock { get; init; }

    /// <summary>Residual stream [batch · length, d] that enters <see cref="FirstBlock"/>; null begins with the token embeddings.</summary>
    public Tensor? Hidden { get; init; }

    /// <summary>First block to run, given what enters it by <see cref="Hidden"/>.</summary>
    public int FirstBlock { get; init; }

    /// <summary>Give padding the values and gradients that transformers' eager attention gives it: see <see cref="Models.EagerPadding"/>. No real token's value changes.</summary>
    public bool EagerPadding { get; init; }

    /// <summary>Where a decoding step reads on the device what changes from token to token; null for a pass that is given its tokens.</summary>
    internal StepState? Step { get; init; }

    internal Tensor Positions { get; set; } = null!;

    internal Tensor FirstKey { get; set; } = null!;

    // Of each part of the shared prefixes, and of the tokens in their outputs.
    internal (Tensor Queries, Tensor Keys, Tensor FirstKey)[] PartIndices { get; set; } = [];

    internal Tensor? PartOutputs { get; set; }

    internal (Tensor Cos, Tensor Sin)? Rope { get; set; }

    internal (Tensor Cos, Tensor Sin)? LocalRope { get; set; }

    /// <summary>Changes a module's output where an edit wants to, and keeps it when it is asked for.</summary>
    internal Tensor Out(string module, Tensor y, Tape.Scope? scope, Tensor? tokens = null)
    {
        if (Edit?.Touches(module) == true)
            y = Edit.Apply(this, module, y, tokens);
        if (Capture?.Invoke(module) == true)
        {
            if (DifferentiateCaptured)
                y.RequiresGrad = y.RetainGrad = true;
            Outputs[module] = scope?.Keep(y) ?? y;
        }
        return y;
    }

    /// <summary>Whether a module's output is changed or kept.</summary>
    internal bool Watches(string module) => Edit?.Touches(module) == true || Capture?.Invoke(module) == true;

    /// <summary>
    /// As <see cref="Out(string, Tensor, Tape.Scope?, Tensor?)"/> for a layer of an expert, whose rows are some tokens of the batch (none: y is
    /// null). What is kept is [batch · length, width] as of every other module, 0 where a token does not go through the expert.
    /// </summary>
    internal Tensor? Out(LinearModule module, Tensor? y, int[] tokens, int count, Tape.Scope scope)
    {
        string path = module.Path;
        if (!Watches(path))
            return y;
        Tensor? index = y is null ? null : Tape.New(tokens, tokens.Length);
        if (y is not null && Edit?.Touches(path) == true)
            y = Edit.Apply(this, path, y, index);
        if (Capture?.Invoke(path) != true)
            return y;
        Tensor all = y is null ? Tape.Filled(0, count, module.Outputs) : Tape.ScatterRows(y, index!, count);
        if (DifferentiateCaptured)
            all.RequiresGrad = all.RetainGrad = true;
        Outputs[path] = scope.Keep(all);
        return y is null ? null : Tape.GatherRows(all, index!);
    }
}
