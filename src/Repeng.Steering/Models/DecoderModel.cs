using Repeng.Autograd;
using Repeng.Kernels;
using Repeng.Runtime;

namespace Repeng.Steering.Models;

/// <summary>
/// A decoder-only language model of any family: weights by their Hugging Face names and one forward pass.
/// Owns its weights.
/// </summary>
public sealed class DecoderModel : IDisposable
{
    private readonly Dictionary<string, Tensor> _parameters;
    private readonly Dictionary<string, LinearModule> _linears;
    private (Tensor Cos, Tensor Sin)? _rope, _localRope;
    private int _ropePositions;
    private bool _ropeLong;

    internal DecoderModel(ModelConfig config, Device device, Dictionary<string, Tensor> parameters, IReadOnlyDictionary<string, FileLayout> layouts, Block[] blocks, Tensor embedding, Tensor? positions, NormModule finalNorm, Tensor head, string source, string fingerprint)
    {
        (Config, Device, _parameters, FileLayouts, Blocks, Source, Fingerprint) = (config, device, parameters, layouts, blocks, source, fingerprint);
        (Embedding, PositionEmbedding, FinalNorm, Head) = (embedding, positions, finalNorm, head);
        _linears = blocks.SelectMany(b => b.Linears).ToDictionary(l => l.Path);
    }

    /// <summary>The description.</summary>
    public ModelConfig Config { get; }

    /// <summary>Where the weights are.</summary>
    public Device Device { get; }

    /// <summary>File or folder that the model came from.</summary>
    public string Source { get; }

    /// <summary>Hash of names, shapes and a sample of the values of every weight: tells one base model from another.</summary>
    public string Fingerprint { get; }

    /// <summary>The blocks.</summary>
    public IReadOnlyList<Block> Blocks { get; }

    /// <summary>Weights by their Hugging Face names (linear weights are [out, in] whatever the file's layout).</summary>
    public IReadOnlyDictionary<string, Tensor> Parameters => _parameters;

    /// <summary>Layout in the model's files of what lies there otherwise than in memory: parameters, and the stacks of experts whose matrices were quantised at load and are parameters of their own.</summary>
    public IReadOnlyDictionary<string, FileLayout> FileLayouts { get; }

    /// <summary>Shape of a parameter, or of a stack that is none, in the model's files.</summary>
    public long[] FileShape(string name) => FileLayouts.TryGetValue(name, out FileLayout? layout) && (layout.Columns > 1 || !_parameters.ContainsKey(name)) ? layout.Shape : [.. _parameters[name].Shape.Select(s => (long)s)];

    /// <summary>Linear layers of the blocks by dotted path, in the order of the forward pass.</summary>
    public IReadOnlyDictionary<string, LinearModule> Linears => _linears;

    /// <summary>Head weight [vocabulary, d]; the token embedding when tied.</summary>
    public Tensor Head { get; }

    /// <summary>Tokens that passes have run through a block so far, summed over the blocks; padding counts.</summary>
    public long TokensRun { get; private set; }

    /// <summary>Bytes of all weights.</summary>
    public long WeightBytes => _parameters.Values.Sum(p => p.Data.Bytes);

    private Tensor Embedding { get; }

    private Tensor? PositionEmbedding { get; }

    private NormModule FinalNorm { get; }

    /// <summary>Lets gradients flow to every parameter, or to none.</summary>
    public void RequireGradients(bool on)
    {
        foreach (Tensor p in _parameters.Values)
        {
            if (on && p.Type != DType.F32)
                throw new UserErrorException($"{Source}: {p.Name} is held as {p.TypeName}; gradients of weights need fp32 (load with --weight_type f32)");
            p.RequiresGrad = p.RetainGrad = on;
            if (!on)
                p.FreeGrad();
        }
    }

    /// <summary>
    /// Residual stream after the final norm [batch · length, d] (or the output of <see cref="ForwardContext.LastBlock"/>).
    /// Everything that the context asks for is filled in.
    /// </summary>
    public Tensor Forward(ForwardContext c)
    {
        Tape tape = c.Tape;
        TokenBatch tokens = c.Tokens;
        Prepare(c);
        if (c.Hidden is null != (c.FirstBlock == 0))
            throw new ArgumentException($"first block {c.FirstBlock} {(c.Hidden is null ? "without" : "with")} a residual stream to begin with");
        Tensor x = c.Hidden ?? c.Out(Config.EmbeddingPath, Embed(c), null);
        Keep(c, x);
        int last = c.LastBlock ?? Config.NumLayers - 1;
        if (c.Step is null)
            TokensRun += (long)tokens.Ids.Length * (last - c.FirstBlock + 1);
        for (int i = c.FirstBlock; i <= last; i++)
        {
            Block block = Blocks[i];
            bool tracks = x.RequiresGrad || c.Adapter is { RequiresGrad: true } && c.Adapter.Touches(i)
                || block.Output.Weight.RequiresGrad || c.Edit is { RequiresGrad: true } || c.DifferentiateCaptured;
            if (c.CheckpointBlocks && tracks && tape.Recording)
            {
                string[] captured = [];
                Tensor[] outputs = tape.Checkpoint(inputs =>
                {
                    string[] before = [.. c.Outputs.Keys];
                    Tensor y = block.Forward(c, inputs[0]);
                    if (captured.Length == 0)
                        captured = [.. c.Outputs.Keys.Except(before)];
                    return [y, .. captured.Select(name => c.Outputs[name])];
                }, tracks, x);
                x = outputs[0];
                for (int k = 0; k < captured.Length; k++)
                    c.Outputs[captured[k]] = outputs[k + 1];
            }
            else
            {
                x = block.Forward(c, x);
            }
            if (i < Config.NumLayers - 1)
                Keep(c, x);
        }
        // A step that is recorded counts its tokens when it has run.
        if (c.Step is null)
            c.Cache?.Advance(tokens.Length);
        if (c.LastBlock is not null)
            return x;
        x = c.Out(FinalNorm.Path, ApplyNorm(tape, Config, FinalNorm, x), null);
        Keep(c, x);
        return x;
    }

    /// <summary>
    /// Modules whose outputs a pass can capture and change, by dotted path: embeddings, the norms, linear layers,
    /// attention, MLP and output of every block, the final norm, and the head, whose input is the final norm's output and
    /// whose output is the logits before a factor or a soft cap. The head is run by <see cref="Logits(ForwardContext, Tensor, int[])"/> and
    /// <see cref="LabelLogProb"/>, not by <see cref="Forward"/>.
    /// </summary>
    public IReadOnlyList<string> Modules => [Config.EmbeddingPath, .. Blocks.SelectMany(b => b.Modules), FinalNorm.Path, Config.HeadPath];

    /// <summary>Logits [rows, vocabulary] of hidden states after the final norm [rows, d], outside of a pass: nothing edits or captures the head.</summary>
    public Tensor Logits(Tape tape, Tensor hidden) => Scaled(tape, tape.Linear(hidden, Head));

    /// <summary>Hidden states [rows, d] after the final norm as <see cref="Head"/> is to be multiplied with: with the factor of the logits, where a family has one.</summary>
    public Tensor HeadInput(Tape tape, Tensor hidden) => Config.LogitScale == 1 ? hidden : tape.Scale(hidden, Config.LogitScale);

    /// <summary>
    /// Logits of a pass, with what it does to the head: [batch · length, vocabulary], or [at, vocabulary] of the tokens at
    /// (rows of hidden). The captured output of the head has the same rows.
    /// </summary>
    /// <param name="c">The pass.</param>
    /// <param name="hidden">What <see cref="Forward"/> gave, [batch · length, d].</param>
    /// <param name="at">Rows of hidden; null for all.</param>
    public Tensor Logits(ForwardContext c, Tensor hidden, int[]? at = null)
    {
        Tape tape = c.Tape;
        Tensor? index = at is null ? null : tape.New(at, at.Length);
        return Scaled(tape, c.Out(Config.HeadPath, tape.Linear(index is null ? hidden : tape.GatherRows(hidden, index), Head), null, index));
    }

    /// <summary>
    /// Log-probability [at] of each label after the token at (a row of hidden). Logits exist a chunk of the vocabulary at a
    /// time, unless the pass edits or captures the head: then all of them, [batch · length, vocabulary].
    /// </summary>
    /// <param name="c">The pass.</param>
    /// <param name="hidden">What <see cref="Forward"/> gave, [batch · length, d].</param>
    /// <param name="at">Rows of hidden.</param>
    /// <param name="labels">Token ids.</param>
    public Tensor LabelLogProb(ForwardContext c, Tensor hidden, int[] at, int[] labels)
    {
        Tape tape = c.Tape;
        Tensor index = tape.New(at, at.Length), ids = tape.New(labels, labels.Length);
        bool held = c.Edit?.Touches(Config.HeadPath) == true || c.Capture?.Invoke(Config.HeadPath) == true;
        return held
            ? tape.LabelLogProb(tape.GatherRows(Logits(c, hidden), index), ids)
            : tape.LabelLogProb(HeadInput(tape, tape.GatherRows(hidden, index)), Head, ids, Config.LogitSoftCap).LogProb;
    }

    private Tensor Scaled(Tape tape, Tensor logits)
    {
        if (Config.LogitScale != 1)
            logits = tape.Scale(logits, Config.LogitScale);
        return Config.LogitSoftCap > 0 ? tape.Unary(logits, UnaryOp.SoftCap, Config.LogitSoftCap) : logits;
    }

    /// <inheritdoc/>
    public void Dispose()
    {
        foreach (LinearModule l in _linears.Values)
        {
            if (l.Weight.IsPart)
                l.Weight.Dispose();
            if (l.Bias is { IsPart: true })
                l.Bias.Dispose();
        }
        foreach (Tensor p in _parameters.Values.Distinct())
            p.Dispose();
        DropRope();
    }

    internal static Tensor ApplyNorm(Tape tape, ModelConfig config, NormModule norm, Tensor x, bool mayRound = false) => config.Norm == NormKind.Rms
        ? tape.RmsNorm(x, norm.Weight, config.NormEps, config.NormOffset, mayRound)
        : tape.LayerNorm(x, norm.Weight, norm.Bias!, config.NormEps);

    private static void Keep(ForwardContext c, Tensor x)
    {
        if (c.KeepHiddenStates)
            c.HiddenStates.Add(x);
    }

    private Tensor Embed(ForwardContext c)
    {
        Tape tape = c.Tape;
        Tensor ids = c.Step?.Ids ?? tape.New(c.Tokens.Ids, c.Tokens.Ids.Length);
        Tensor x = tape.Embedding(Embedding, ids, Config.EmbeddingScale);
        return PositionEmbedding is null ? x : tape.Add(x, tape.Embedding(PositionEmbedding, c.Positions));
    }

    private void Prepare(ForwardContext c)
    {
        TokenBatch tokens = c.Tokens;
        SharedPrefixes? prefixes = c.Prefixes is { Shared: true } ? c.Prefixes : null;
        if (prefixes is not null && c.EagerPadding)
            throw new ArgumentException("values of padding are asked for, and where prefixes are shared there is no padding");
        TokenBatch texts = prefixes?.Texts ?? tokens;
        int offset = c.Cache?.Length ?? 0;
        int total = Math.Max(offset + texts.Length, c.Cache?.Capacity ?? 0), before = texts.Starts.Min();
        int longest = total - before;
        if (offset + texts.Length - before > Config.MaxPositions)
            throw new UserErrorException($"a text of {offset + texts.Length - before} tokens does not fit the context of {Config.MaxPositions} tokens of {Source}; shorten it");
        foreach (int id in tokens.Ids)
            if ((uint)id >= (uint)Config.VocabSize)
                throw new UserErrorException($"token id {id} is outside the vocabulary of {Config.VocabSize} of {Source}; the tokenizer belongs to another model");

        int[] positions = prefixes?.PositionOf ?? new int[tokens.Ids.Length];
        for (int b = 0; prefixes is null && b < tokens.Batch; b++)
            for (int t = 0; t < tokens.Length; t++)
                positions[b * tokens.Length + t] = Math.Max(0, offset + t - tokens.Starts[b]);
        c.Positions = c.Step?.Positions ?? c.Tape.New(positions, positions.Length);
        c.FirstKey = c.Tape.New(tokens.Starts, tokens.Batch);
        if (prefixes is not null)
        {
            c.PartIndices = [.. prefixes.Parts.Select(p => (c.Tape.New(p.Queries, p.Queries.Length), c.Tape.New(p.Keys, p.Keys.Length), c.Tape.New(p.FirstKey, p.Batch)))];
            c.PartOutputs = c.Tape.New(prefixes.Outputs, prefixes.Outputs.Length);
        }
        c.Edit?.Begin(c);
        EnsureRope(longest);
        (c.Rope, c.LocalRope) = (_rope, _localRope);
    }

    /// <summary>Tables of rotary angles that were made so far: what reads them in a recorded step is to be recorded anew where it has grown.</summary>
    internal int RopeTablesMade { get; private set; }

    /// <summary>Counts a decoding step of a token a sequence that went through every block.</summary>
    internal void CountStep(int batch) => TokensRun += (long)batch * Config.NumLayers;

    /// <summary>Makes the tables that a step behind a cache reads, where they are not there.</summary>
    internal void EnsureRope(KvCache cache) => EnsureRope(cache.Capacity - cache.Starts.Min());

    // Tables grow with the longest text; the long factors of longrope hold for the whole batch (and, with a cache, for its capacity).
    private void EnsureRope(int longest)
    {
        if (Config.Rope is null)
            return;
        bool isLong = Config.Rope.Scaling is { Type: RopeScalingType.LongRope } s && longest > s.OriginalMaxPosition;
        if (_rope is not null && longest <= _ropePositions && isLong == _ropeLong && Config.Rope.Scaling?.Type != RopeScalingType.Dynamic)
            return;
        DropRope();
        RopeTablesMade++;
        _ropePositions = isLong || Config.Rope.Scaling is { Type: RopeScalingType.LongRope or RopeScalingType.Dynamic } ? longest : Math.Min(Math.Max(longest, 256) * 2, Math.Max(Config.MaxPositions, longest));
        _ropeLong = isLong;
        _rope = Table(Config.Rope, longest);
        _localRope = Config.LocalRope is null ? _rope : Table(Config.LocalRope, longest);

        (Tensor, Tensor) Table(RopeSpec spec, int sequenceLength)
        {
            (float[] cos, float[] sin) = RopeTables.Build(_ropePositions, Config.RotaryDim, spec.Theta, spec.Scaling, Config.MaxPositions, sequenceLength);
            return (Tensor.From(Device, cos, _ropePositions, Config.RotaryDim / 2), Tensor.From(Device, sin, _ropePositions, Config.RotaryDim / 2));
        }
    }

    private void DropRope()
    {
        if (_localRope is { } local && local != _rope)
        {
            local.Cos.Dispose();
            local.Sin.Dispose();
        }
        if (_rope is { } rope)
        {
            rope.Cos.Dispose();
            rope.Sin.Dispose();
        }
        (_rope, _localRope) = (null, null);
    }
}
