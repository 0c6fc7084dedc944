using Repeng.Autograd;
using Repeng.Kernels;
using Repeng.Runtime;
using Repeng.Steering.Adapters;
using Repeng.Steering.Models;
using Repeng.Steering.Vectors;

namespace Repeng.Steering.Generation;

/// <summary>What steers the rows of a generation; at most one of the two kinds is set.</summary>
/// <param name="Adapter">An adapter.</param>
/// <param name="Vector">A control vector.</param>
public sealed record Steering(IAdapter? Adapter = null, VectorControl? Vector = null)
{
    /// <summary>No steering.</summary>
    public static Steering None { get; } = new();

    /// <summary>A context for one pass in which each row has its own coefficient.</summary>
    public ForwardContext Context(Tape tape, TokenBatch tokens, float[] coefficients, KvCache? cache = null, IAdapterPass? pass = null, Func<string, bool>? capture = null) =>
        Context(tape, tokens, coefficients, cache, pass, step: null, capture);

    /// <summary>As the other one, of a decoding step that reads on the device what changes from token to token.</summary>
    internal ForwardContext Context(Tape tape, TokenBatch tokens, float[] coefficients, KvCache? cache, IAdapterPass? pass, StepState? step, Func<string, bool>? capture = null) =>
        new(tape, tokens, cache)
        {
            Step = step,
            Adapter = pass ?? Adapter?.Pass(tape, coefficients, tokens.Length),
            Edit = Vector?.Pass(coefficients),
            Capture = capture,
        };

    /// <summary>A context for one pass over texts that are all steered by one coefficient.</summary>
    public ForwardContext Context(Tape tape, SharedPrefixes texts, float coefficient, PlainPrefix? prefix = null)
    {
        float[] coefficients = [.. Enumerable.Repeat(coefficient, texts.Tokens.Batch)];
        return new(tape, texts)
        {
            FirstBlock = prefix?.Block ?? 0,
            Hidden = prefix?.Enter(tape, texts, this),
            Adapter = Adapter?.Pass(tape, coefficients, texts.Tokens.Length),
            Edit = Vector?.Pass(coefficients),
        };
    }
}

/// <summary>Generates with a KV cache, all rows in one batch, each row steered by its own coefficient.</summary>
public sealed class Generator(DecoderModel model)
{
    /// <summary>Whether a device that records (<see cref="IRecording"/>) runs the steps after the prompts from a recording. The tokens are the same to the bit.</summary>
    public bool RecordSteps { get; init; } = true;

    /// <summary>Steps of the last generation that were run from a recording.</summary>
    public int ReplayedSteps { get; private set; }

    /// <summary>Recordings that the last generation made.</summary>
    public int RecordedSteps { get; private set; }

    /// <summary>
    /// Continues each prompt until an end token or maxNewTokens. Returns the new tokens of each row, the end token
    /// included when it was reached. Throws <see cref="UserErrorException"/> where the coefficient of a row makes its logits infinite, with the block.
    /// </summary>
    /// <param name="prompts">Token ids of each row.</param>
    /// <param name="coefficients">Steering coefficient of each row.</param>
    /// <param name="steering">What steers.</param>
    /// <param name="settings">How tokens are chosen; row r draws from stream r.</param>
    /// <param name="maxNewTokens">Limit.</param>
    /// <param name="stops">Tokens that end a row.</param>
    /// <param name="padId">Fills the shorter rows of the batch on the left.</param>
    /// <param name="onToken">Called with row and token as they come.</param>
    /// <param name="stop">Ends early.</param>
    /// <param name="endRow">Called with row and token as they come, after onToken; true ends the row there.</param>
    public int[][] Generate(IReadOnlyList<int[]> prompts, float[] coefficients, Steering steering, SamplingSettings settings, int maxNewTokens,
        IReadOnlyCollection<int> stops, int padId = 0, Action<int, int>? onToken = null, CancellationToken stop = default, Func<int, int, bool>? endRow = null)
    {
        settings.Validate();
        if (prompts.Count != coefficients.Length)
            throw new ArgumentException($"{prompts.Count} prompts with {coefficients.Length} coefficients");
        if (prompts.Any(p => p.Length == 0))
            throw new UserErrorException("the prompt is empty: no token to continue from");
        int longest = prompts.Max(p => p.Length);
        if (longest + maxNewTokens > model.Config.MaxPositions)
        {
            if (longest >= model.Config.MaxPositions)
                throw new UserErrorException($"the prompt has {longest} tokens, the context of {model.Source} holds {model.Config.MaxPositions}; shorten it");
            maxNewTokens = model.Config.MaxPositions - longest;
        }
        TokenBatch next = TokenBatch.Pad(prompts, padId);
        int[] starts = next.Starts;
        using var cache = new KvCache(model.Device, model.Config, prompts.Count, next.Length + maxNewTokens, starts);
        using var choice = new TokenChoice(model, steering, settings, prompts, coefficients, maxNewTokens);
        List<int>[] made = [.. prompts.Select(_ => new List<int>())];
        var done = new bool[prompts.Count];
        using DecodeSteps? steps = RecordSteps && DecodeSteps.CanRun(model, steering) ? new DecodeSteps(model, steering, coefficients, cache) : null;
        using var adapterTape = new Tape(model.Device, record: false);
        IAdapterPass? decodePass = null;
        for (int step = 0; step < maxNewTokens && !stop.IsCancellationRequested; step++)
        {
            using var tape = new Tape(model.Device, record: false);
            // The terms of one-token passes are all the same; they are made once.
            if (step > 0)
                decodePass ??= steering.Adapter?.Pass(adapterTape, coefficients, 1);
            Tensor logits = step > 0 && steps is not null ? steps.Next(next.Ids, decodePass, maxNewTokens - step) : Logits(tape, next, step > 0 ? decodePass : null);
            int[] chosen = choice.Next(logits, made, done, step);
            (ReplayedSteps, RecordedSteps) = (steps?.Replayed ?? 0, steps?.Recorded ?? 0);
            var ids = new int[prompts.Count];
            for (int b = 0; b < ids.Length; b++)
            {
                if (done[b])
                {
                    ids[b] = padId;
                    continue;
                }
                ids[b] = chosen[b];
                made[b].Add(ids[b]);
                onToken?.Invoke(b, ids[b]);
                bool ended = endRow?.Invoke(b, ids[b]) == true;
                done[b] = ended || stops.Contains(ids[b]);
            }
            if (Array.TrueForAll(done, d => d))
                break;
            next = new TokenBatch(prompts.Count, 1, ids, starts);
        }
        return [.. made.Select(m => m.ToArray())];

        Tensor Logits(Tape tape, TokenBatch tokens, IAdapterPass? pass)
        {
            ForwardContext context = steering.Context(tape, tokens, coefficients, cache, pass);
            Tensor hidden = model.Forward(context);
            int[] last = [.. Enumerable.Range(0, tokens.Batch).Select(b => (b + 1) * tokens.Length - 1)];
            return model.Logits(context, hidden, tokens.Length == 1 ? null : last);
        }
    }
}
