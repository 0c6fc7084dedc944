using System.Runtime.InteropServices;
using Repeng.Autograd;
using Repeng.Kernels;
using Repeng.Runtime;
using Repeng.Steering.Losses;
using Repeng.Steering.Models;
using Repeng.Steering.Training;

namespace Repeng.Steering.Vectors;

/// <summary>How a batch's losses become one number; it sets the scale of the gradients and with it the meaning of Fisher's λ.</summary>
public enum LossReduction
{
    /// <summary>The gradient of each pair's own loss, whatever the size of the batch: λ has one meaning.</summary>
    PerPair,

    /// <summary>The mean over the batch, as upstream: gradients are divided by the number of pairs in their batch.</summary>
    BatchMean,
}

/// <summary>What is collected, and where.</summary>
public sealed record RepresentationSettings
{
    /// <summary>The loss of the published results.</summary>
    public const string DefaultLoss = "reprpo_nll_margin";

    /// <summary>Token counted from the end: 1 is the last, 2 the one before it. Null: 1 for activations alone, 2 with gradients (at the last token no scored label depends on it, and the coherence term has no gradient).</summary>
    public int? TokenFromEnd { get; init; }

    /// <summary>Rows that run together, two a pair.</summary>
    public int BatchRows { get; init; } = 16;

    /// <summary>Compute the beginnings that texts of a batch share once (<see cref="SharedPrefixes"/>); without it each text by itself, for comparisons.</summary>
    public bool SharePrefixes { get; init; } = true;

    /// <summary>The sampled loss.</summary>
    public string Loss { get; init; } = DefaultLoss;

    /// <summary>Its settings.</summary>
    public SampledLossSettings LossSettings { get; init; } = new();

    /// <summary>See <see cref="LossReduction"/>.</summary>
    public LossReduction Reduction { get; init; }

    /// <summary>Block whose output the loss reads; null: the third from the end, transformers' hidden_states[-3].</summary>
    public int? TapBlock { get; init; }

    /// <summary>Folder of the scratch file that rows are kept in while they are needed; null: the system's for temporary files.</summary>
    public string? ScratchFolder { get; init; }
}

/// <summary>Loss of one batch of the gradient collection, by upstream's parts.</summary>
public sealed record SampledBatch(int Pairs, double Loss, IReadOnlyDictionary<string, double> Parts);

/// <summary>
/// Rows of activations and gradients of any modules over contrast pairs: what directions are made of. Nothing of the model
/// changes. The graph begins at the first module asked for, so nothing below it is differentiated. Mean differences are summed
/// as the texts go by; rows, where a method needs them, go to a scratch file that lives as long as this does, and are read from it
/// a layer at a time: memory does not grow with the pairs.
/// </summary>
public sealed class Representations : IDisposable
{
    private readonly DecoderModel _model;
    private readonly string[] _modules;
    private readonly VectorNeeds _needs;
    private readonly RepresentationSettings _settings;
    private readonly Dictionary<string, double[]> _differences = [];
    private readonly RowScratch? _scratch;
    private readonly double[] _logProb, _tapGradient;
    private readonly int _rows;
    private readonly List<SampledBatch> _batches = [];
    private readonly int _tapBlock, _token;
    private const string HiddenKey = "activations of ", GradientKey = "gradients of ";

    private Representations(DecoderModel model, IReadOnlyList<string> modules, int pairs, VectorNeeds needs, RepresentationSettings settings)
    {
        (_model, _modules, _needs, _settings, _rows) = (model, [.. modules], needs, settings, 2 * pairs);
        (_logProb, _tapGradient) = (new double[_rows], new double[_rows]);
        if (modules.FirstOrDefault(m => !model.Modules.Contains(m)) is { } unknown)
            throw new UserErrorException($"{unknown} is no module of {model.Source} whose output can be read; there are {model.Modules[0]}, …, {model.Modules[^1]}");
        int blocks = model.Blocks.Count;
        _tapBlock = settings.TapBlock ?? Math.Max(0, blocks - 3);
        if (_tapBlock < 0 || _tapBlock >= blocks)
            throw new UserErrorException($"tap block {_tapBlock}: {model.Source} has blocks 0 … {blocks - 1}");
        _token = settings.TokenFromEnd ?? (needs.HasFlag(VectorNeeds.Gradients) ? 2 : 1);
        if (_token < 1)
            throw new UserErrorException($"token position {_token} from the end: 1 is the last token");
        if (settings.BatchRows < 2 || settings.BatchRows % 2 != 0)
            throw new UserErrorException($"batch size {settings.BatchRows}: rows come in pairs, give an even number from 2 up");
        if ((needs & (VectorNeeds.Hidden | VectorNeeds.Gradients)) != 0)
            _scratch = new RowScratch(settings.ScratchFolder, _rows, new[] { (VectorNeeds.Hidden, HiddenKey), (VectorNeeds.Gradients, GradientKey) }
                .Where(kind => needs.HasFlag(kind.Item1)).SelectMany(kind => modules.Select(m => KeyValuePair.Create(kind.Item2 + m, LayerSelection.Width(model, m)))));
    }

    /// <summary>The rows of each module.</summary>
    public IReadOnlyDictionary<string, LayerRows> Layers { get; private set; } = null!;

    /// <summary>Tokens that were run through the model, those of a beginning that texts of a batch share once, and padding where none is shared.</summary>
    public long TokensComputed { get; private set; }

    /// <summary>Losses of the batches where gradients were taken.</summary>
    public IReadOnlyList<SampledBatch> Batches => _batches;

    /// <summary>Collects rows of the modules over pairs of token sequences, any number of them; the last batch may be smaller.</summary>
    public static Representations Collect(DecoderModel model, IReadOnlyList<string> modules, IReadOnlyList<TokenPair> pairs, int padId, VectorNeeds needs, RepresentationSettings settings, Action<int, int>? progress = null)
    {
        if (pairs.Count == 0)
            throw new UserErrorException("no pair of texts to make a direction from; give at least one persona pair and one suffix");
        int shortest = pairs.Min(p => Math.Min(p.Positive.Length, p.Negative.Length));
        var collected = new Representations(model, modules, pairs.Count, needs, settings);
        try
        {
            if (shortest < collected._token || collected.Scores && shortest < 2)
                throw new UserErrorException($"a text of {shortest} token{(shortest == 1 ? "" : "s")} is too short for token position {collected._token} from the end; give longer suffixes");
            var data = new PairData(pairs, padId);
            int perBatch = settings.BatchRows / 2, done = 0;
            foreach (int[] batch in Enumerable.Range(0, pairs.Count).Chunk(perBatch))
            {
                collected.Run(data.Batch(batch), 2 * done);
                done += batch.Length;
                progress?.Invoke(done, pairs.Count);
            }
        }
        catch
        {
            collected.Dispose();
            throw;
        }
        collected.Layers = modules.ToDictionary(m => m, m => new LayerRows(LayerSelection.Width(model, m), collected._rows)
        {
            MeanDifference = Array.ConvertAll(collected._differences[m], v => v / pairs.Count),
            Hidden = needs.HasFlag(VectorNeeds.Hidden) ? collected._scratch!.Read(HiddenKey + m) : null,
            Gradients = needs.HasFlag(VectorNeeds.Gradients) ? collected._scratch!.Read(GradientKey + m) : null,
            LogProb = collected.Scores ? collected._logProb : null,
            TapGradient = needs.HasFlag(VectorNeeds.Gradients) ? collected._tapGradient : null,
        });
        return collected;
    }

    private bool Scores => (_needs & (VectorNeeds.LogProb | VectorNeeds.Gradients)) != 0;

    /// <summary>Lets the rows go.</summary>
    public void Dispose() => _scratch?.Dispose();

    // Rows first … of the whole set.
    private void Run(TokenBatch batch, int first)
    {
        bool differentiate = _needs.HasFlag(VectorNeeds.Gradients), scores = Scores;
        string tap = _model.Blocks[_tapBlock].Path;
        // A text's own gradient is read at the token, which no other text may then be a part of.
        SharedPrefixes texts = _settings.SharePrefixes ? SharedPrefixes.Of(batch, apart: differentiate ? _token : 0) : SharedPrefixes.Plain(batch);
        TokensComputed += texts.Computed;
        using var tape = new Tape(_model.Device, record: differentiate);
        var context = new ForwardContext(tape, texts)
        {
            Capture = m => Array.IndexOf(_modules, m) >= 0 || differentiate && m == tap,
            DifferentiateCaptured = differentiate,
            LastBlock = scores ? null : LastBlock(),
        };
        Tensor final = _model.Forward(context);
        int[] at = texts.RowsFromEnd(_token);
        Tensor index = tape.New(at, at.Length);
        // The head is no part of the pass; with labels to score it is run by them.
        if (!scores && Array.IndexOf(_modules, _model.Config.HeadPath) >= 0)
            _model.Logits(context, final);
        // Labels count whose context and self are real.
        var labels = new LabelSet();
        int[][] places = scores ? [.. Enumerable.Range(0, batch.Batch).Select(b => labels.Add(texts, b, batch.Starts[b] + 1, batch.Length - 1))] : [];
        Tensor? logProb = scores ? labels.LogProb(_model, context, final) : null;
        foreach (string module in _modules)
            Note(module, first, tape.GatherRows(tape.Reshape(context.Outputs[module], texts.Computed, LayerSelection.Width(_model, module)), index).ToArray());
        if (logProb is null)
            return;

        float[] values = logProb.ToArray();
        double[] mean = [.. places.Select(own => own.Sum(place => values[place] / (double)own.Length))];
        mean.CopyTo(_logProb, first);
        if (differentiate)
            Differentiate(tape, batch, context, first, at, logProb, places, mean, tap);
    }

    private void Differentiate(Tape tape, TokenBatch batch, ForwardContext context, int first, int[] at, Tensor logProb, int[][] places, double[] mean, string tap)
    {
        Tensor tapRows = tape.GatherRows(context.Outputs[tap], tape.New(at, at.Length));
        int d = tapRows.Cols;
        double[] hidden = Array.ConvertAll(tapRows.ToArray(), x => (double)x);
        // The model is its own reference: nothing of it has been trained when its gradients are taken.
        SampledLossSettings settings = _settings.Loss == SampledLosses.WithReference ? _settings.LossSettings with { ReferenceLogp = mean } : _settings.LossSettings;
        SampledLossResult loss = SampledLosses.Compute(_settings.Loss, hidden, batch.Batch, d, mean, settings);
        double scale = _settings.Reduction == LossReduction.PerPair ? batch.Batch / 2.0 : 1;
        _batches.Add(new SampledBatch(batch.Batch / 2, loss.Loss, loss.Parts));
        for (int b = 0; b < batch.Batch; b++)
        {
            double[] g = loss.HiddenGradient[(b * d)..((b + 1) * d)];
            _tapGradient[first + b] = scale * scale * LayerRows.Dot(g, g);
        }
        // The loss is computed in double on the host; its gradients enter the tape at the two things that it reads.
        Seed(tapRows, [.. loss.HiddenGradient.Select(g => (float)(g * scale))]);
        var labelGradient = new double[logProb.Length];
        for (int b = 0; b < batch.Batch; b++)
            foreach (int place in places[b])
                labelGradient[place] += loss.LogpGradient[b] * scale / places[b].Length;
        Seed(logProb, Array.ConvertAll(labelGradient, g => (float)g));
        tape.Backward(logProb.RequiresGrad ? [tapRows, logProb] : [tapRows]);
        foreach (string module in _modules)
        {
            Tensor y = context.Outputs[module];
            // What the loss does not depend on has no gradient: zero.
            float[] g = y.Grad.IsEmpty ? new float[y.Length] : y.GradToArray();
            int width = LayerSelection.Width(_model, module);
            var rows = new float[batch.Batch * width];
            for (int b = 0; b < batch.Batch; b++)
                g.AsSpan(at[b] * width, width).CopyTo(rows.AsSpan(b * width));
            _scratch!.Write(GradientKey + module, first, rows);
        }
    }

    private int? LastBlock()
    {
        // The final norm, and the embeddings, are of no block.
        int?[] blocks = [.. _modules.Select(m => LayerSelection.BlockOf(_model, m))];
        return blocks.Contains(null) ? null : blocks.Max();
    }

    private static void Seed(Tensor t, float[] gradient)
    {
        if (t.RequiresGrad)
            t.Device.Backend.Upload(t.GradForWrite(out _), MemoryMarshal.AsBytes(gradient.AsSpan()));
    }

    private void Note(string module, int first, float[] rows)
    {
        int width = LayerSelection.Width(_model, module);
        if (!_differences.TryGetValue(module, out double[]? sum))
            _differences[module] = sum = new double[width];
        for (int i = 0; i < rows.Length; i++)
            sum[i % width] += i / width % 2 == 0 ? rows[i] : -rows[i];
        if (_needs.HasFlag(VectorNeeds.Hidden))
            _scratch!.Write(HiddenKey + module, first, rows);
    }
}
