using System.Numerics;
using System.Runtime.InteropServices;
using Repeng.Kernels;

namespace Repeng.Steering.Generation;

/// <summary>
/// Processes logits as transformers does, in its order: repetition penalty, temperature, top-k, top-p, min-p. One
/// sampler serves one vocabulary; its buffers are reused.
/// </summary>
public sealed class Sampler(SamplingSettings settings, int vocabulary)
{
    private readonly float[] _scores = new float[vocabulary];
    private readonly double[] _probabilities = new double[vocabulary];
    private readonly int[] _order = new int[vocabulary];
    private readonly float[] _sorted = new float[vocabulary];

    /// <summary>Processed scores of the last call; −∞ where a token was removed.</summary>
    public ReadOnlySpan<float> Scores => _scores;

    /// <summary>Applies all settings to raw logits [vocabulary]; seen tokens of padding must not be among <paramref name="seen"/>.</summary>
    public void Process(ReadOnlySpan<float> logits, IEnumerable<int> seen)
    {
        logits.CopyTo(_scores);
        if (settings.RepetitionPenalty != 1)
            foreach (int id in seen.Distinct())
                _scores[id] = _scores[id] > 0 ? _scores[id] / settings.RepetitionPenalty : _scores[id] * settings.RepetitionPenalty;
        if (!settings.Sample)
            return;
        if (settings.Temperature != 1)
            for (int i = 0; i < _scores.Length; i++)
                _scores[i] /= settings.Temperature;
        if (settings.TopK > 0 && settings.TopK < _scores.Length)
            KeepTopK(settings.TopK);
        if (settings.TopP < 1)
            KeepTopP(settings.TopP);
        if (settings.MinP > 0)
            KeepMinP(settings.MinP);
    }

    /// <summary>Softmax of the processed scores, in double.</summary>
    public ReadOnlySpan<double> Probabilities()
    {
        float max = float.NegativeInfinity;
        foreach (float s in _scores)
            max = Math.Max(max, s);
        double sum = 0;
        for (int i = 0; i < _scores.Length; i++)
            sum += _probabilities[i] = Math.Exp(_scores[i] - max);
        for (int i = 0; i < _scores.Length; i++)
            _probabilities[i] /= sum;
        return _probabilities;
    }

    /// <summary>The token for raw logits: the largest score (the first of equals), or a draw addressed by (seed, stream, step).</summary>
    public int Next(ReadOnlySpan<float> logits, IEnumerable<int> seen, ulong stream, ulong step)
    {
        Process(logits, seen);
        if (!settings.Sample)
            return Largest(_scores);
        ReadOnlySpan<double> p = Probabilities();
        double u = Philox.Uniform(settings.Seed, stream, step), cumulative = 0;
        int last = 0;
        for (int i = 0; i < p.Length; i++)
        {
            if (p[i] == 0)
                continue;
            last = i;
            cumulative += p[i];
            if (u < cumulative)
                return i;
        }
        return last;
    }

    // The first of the largest.
    private static int Largest(ReadOnlySpan<float> scores)
    {
        ReadOnlySpan<Vector<float>> wide = MemoryMarshal.Cast<float, Vector<float>>(scores);
        var largest = new Vector<float>(float.NegativeInfinity);
        foreach (Vector<float> s in wide)
            largest = Vector.ConditionalSelect(Vector.GreaterThan(s, largest), s, largest);
        float max = float.NegativeInfinity;
        for (int i = 0; i < Vector<float>.Count; i++)
            max = largest[i] > max ? largest[i] : max;
        int at = 0;
        // The vector that holds the first of them, unless it is behind the last whole vector.
        while (at < wide.Length && !Vector.EqualsAny(wide[at], new Vector<float>(max)))
            at++;
        int from = at < wide.Length ? at * Vector<float>.Count : 0;
        int best = from;
        for (int i = from; i < (at < wide.Length ? from + Vector<float>.Count : scores.Length); i++)
            if (scores[i] > scores[best])
                best = i;
        for (int i = wide.Length * Vector<float>.Count; i < scores.Length; i++)
            if (scores[i] > scores[best])
                best = i;
        return best;
    }

    private void KeepTopK(int k)
    {
        _scores.CopyTo(_sorted, 0);
        Array.Sort(_sorted);
        float threshold = _sorted[^k];
        for (int i = 0; i < _scores.Length; i++)
            if (_scores[i] < threshold)
                _scores[i] = float.NegativeInfinity;
    }

    // Ascending order, removed while the cumulative probability is ≤ 1 − p; the largest always stays.
    private void KeepTopP(float p)
    {
        for (int i = 0; i < _order.Length; i++)
            _order[i] = i;
        _scores.CopyTo(_sorted, 0);
        Array.Sort(_sorted, _order);
        ReadOnlySpan<double> probabilities = Probabilities();
        double cumulative = 0;
        for (int i = 0; i < _order.Length - 1; i++)
        {
            cumulative += probabilities[_order[i]];
            if (cumulative > 1 - p)
                break;
            _scores[_order[i]] = float.NegativeInfinity;
        }
    }

    private void KeepMinP(float minP)
    {
        ReadOnlySpan<double> probabilities = Probabilities();
        double max = 0;
        foreach (double q in probabilities)
            max = Math.Max(max, q);
        for (int i = 0; i < _scores.Length; i++)
            if (probabilities[i] < minP * max)
                _scores[i] = float.NegativeInfinity;
    }
}
