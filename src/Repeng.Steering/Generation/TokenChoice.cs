using System.Runtime.InteropServices;
using Repeng.Kernels;
using Repeng.Runtime;
using Repeng.Steering.Models;

namespace Repeng.Steering.Generation;

/// <summary>Chooses the next token of every row of a batch: on the device where it can (<see cref="ISampling"/>), else on the host by <see cref="Sampler"/>.</summary>
internal sealed class TokenChoice : IDisposable
{
    private readonly DecoderModel _model;
    private readonly Steering _steering;
    private readonly SamplingSettings _settings;
    private readonly IReadOnlyList<int[]> _prompts;
    private readonly float[] _coefficients;
    private readonly Sampler _sampler;
    private float[]? _onHost;

    // On the device: tokens, processed scores, and, for the penalty, the ids seen so far, each once.
    private readonly Tensor? _tokens, _scores, _seen;
    private readonly int[] _seenIds = [], _seenCounts = [];
    private readonly HashSet<int>[] _known = [];

    public TokenChoice(DecoderModel model, Steering steering, SamplingSettings settings, IReadOnlyList<int[]> prompts, float[] coefficients, int maxNewTokens)
    {
        (_model, _steering, _settings, _prompts, _coefficients) = (model, steering, settings, prompts, coefficients);
        _sampler = new Sampler(settings, model.Config.VocabSize);
        if (model.Device.Backend is not ISampling)
            return;
        _tokens = new Tensor(model.Device, DType.I32, prompts.Count);
        _scores = new Tensor(model.Device, DType.F32, prompts.Count, model.Config.VocabSize);
        if (settings.RepetitionPenalty == 1)
            return;
        int most = prompts.Max(p => p.Length) + maxNewTokens;
        _seen = new Tensor(model.Device, DType.I32, prompts.Count, most);
        (_seenIds, _seenCounts) = (new int[prompts.Count * most], new int[prompts.Count]);
        _known = [.. prompts.Select(_ => new HashSet<int>())];
        for (int b = 0; b < prompts.Count; b++)
            foreach (int id in prompts[b])
                See(b, id);
    }

    /// <summary>Tokens of all rows; those of rows that are done mean nothing.</summary>
    /// <param name="logits">[rows, vocabulary] on the model's device.</param>
    /// <param name="made">Tokens of each row so far.</param>
    /// <param name="done">Rows that have ended.</param>
    /// <param name="step">Number of the token.</param>
    public int[] Next(Tensor logits, List<int>[] made, bool[] done, int step)
    {
        int vocabulary = _model.Config.VocabSize;
        if (_tokens is null)
            return OnHost(b => true);
        var sampling = (ISampling)_model.Device.Backend;
        if (_seen is not null)
        {
            for (int b = 0; b < made.Length && step > 0; b++)
                if (made[b].Count == step)
                    See(b, made[b][^1]);
            _model.Device.Backend.Upload(_seen.Data, MemoryMarshal.AsBytes(_seenIds.AsSpan()));
        }
        sampling.Sample(_tokens.Data, _scores!.Data, logits.Data, _seen?.Data ?? default, _seenCounts, vocabulary,
            new SampleArgs(_settings.Sample, _settings.Temperature, _settings.TopK, _settings.TopP, _settings.MinP, _settings.RepetitionPenalty, _settings.Seed), (ulong)step);
        int[] tokens = _tokens.ToInts();
        // A row without a token says why on the host; where its logits are only all alike, the first is taken as ever.
        bool Bad(int b) => tokens[b] < 0 && !done[b];
        if (!Enumerable.Range(0, tokens.Length).Any(Bad))
            return tokens;
        int[] again = OnHost(Bad);
        return [.. tokens.Select((t, b) => Bad(b) ? again[b] : t)];

        int[] OnHost(Func<int, bool> wanted)
        {
            float[] values = _onHost ??= new float[logits.Length];
            logits.CopyTo(values);
            var ids = new int[made.Length];
            for (int b = 0; b < ids.Length; b++)
            {
                if (done[b] || !wanted(b))
                    continue;
                ReadOnlySpan<float> row = values.AsSpan(b * vocabulary, vocabulary);
                IEnumerable<int> text = _prompts[b].Concat(made[b]);
                FiniteLogits.Require(_model, _steering, _coefficients[b], row, text);
                ids[b] = _sampler.Next(row, _settings.RepetitionPenalty == 1 ? [] : text, (ulong)b, (ulong)step);
            }
            return ids;
        }
    }

    public void Dispose()
    {
        _tokens?.Dispose();
        _scores?.Dispose();
        _seen?.Dispose();
    }

    private void See(int row, int id)
    {
        if (_known[row].Add(id))
            _seenIds[(row * (_seenIds.Length / _known.Length)) + _seenCounts[row]++] = id;
    }
}
