namespace Repeng.Kernels;

/// <summary>
/// Tables of cos and sin for <see cref="IBackend.Rope"/>, computed in fp32 step by step as Hugging Face transformers 4.57
/// does (modeling_rope_utils), because at high positions the rounding of a frequency is what sets the angle.
/// </summary>
public static class RopeTables
{
    /// <summary>
    /// cos and sin of position · frequency, times the attention factor: two arrays [positions, rotaryDim / 2].
    /// </summary>
    /// <param name="positions">Number of positions, 0 … positions − 1.</param>
    /// <param name="rotaryDim">Elements of a head that are rotated (head_dim · partial_rotary_factor), even.</param>
    /// <param name="theta">Base of the frequencies, <c>rope_theta</c>.</param>
    /// <param name="scaling">The config's scaling, or null for none.</param>
    /// <param name="maxPositionEmbeddings">The config's <c>max_position_embeddings</c>.</param>
    /// <param name="sequenceLength">
    /// Tokens of the longest sequence that will be run, for the two scalings whose frequencies depend on it (dynamic and
    /// longrope); 0 means <paramref name="positions"/>. Frequencies are chosen once, so that a cache stays valid.
    /// </param>
    /// <exception cref="UserErrorException">The scaling lacks a value or has an impossible one.</exception>
    public static (float[] Cos, float[] Sin) Build(
        int positions, int rotaryDim, double theta, RopeScaling? scaling, int maxPositionEmbeddings, int sequenceLength = 0)
    {
        ArgumentOutOfRangeException.ThrowIfNegative(positions);
        ArgumentOutOfRangeException.ThrowIfNegative(sequenceLength);
        (float[] frequencies, float attentionFactor) =
            Frequencies(rotaryDim, theta, scaling, maxPositionEmbeddings, sequenceLength > 0 ? sequenceLength : positions);
        long size = (long)positions * frequencies.Length;
        if (size > Array.MaxLength)
            throw new UserErrorException($"rope tables of {positions} positions × {frequencies.Length} frequencies are too large; ask for a shorter context");
        float[] cos = new float[size], sin = new float[size];
        for (int p = 0, at = 0; p < positions; p++)
            foreach (float frequency in frequencies)
            {
                // The product is rounded to fp32 before the function is taken, as in the model's own software.
                float angle = p * frequency;
                cos[at] = (float)Math.Cos(angle) * attentionFactor;
                sin[at++] = (float)Math.Sin(angle) * attentionFactor;
            }
        return (cos, sin);
    }

    /// <summary>
    /// Radians per position of each pair [rotaryDim / 2], and the factor that multiplies cos and sin.
    /// Parameters as in <see cref="Build"/>.
    /// </summary>
    /// <exception cref="UserErrorException">The scaling lacks a value or has an impossible one.</exception>
    public static (float[] Frequencies, float AttentionFactor) Frequencies(
        int rotaryDim, double theta, RopeScaling? scaling, int maxPositionEmbeddings, int sequenceLength)
    {
        if (rotaryDim < 2 || rotaryDim % 2 != 0)
            throw new UserErrorException($"rope: {rotaryDim} rotated elements per head; needs an even number from 2 (check head_dim and partial_rotary_factor)");
        if (!(theta > 0) || double.IsInfinity(theta))
            throw new UserErrorException($"rope: rope_theta is {theta}; needs a positive number");
        scaling ??= new RopeScaling();
        switch (scaling.Type)
        {
            case RopeScalingType.Default:
                return (Plain(rotaryDim, theta), 1);
            case RopeScalingType.Linear:
                float factor = (float)Positive(scaling.Factor, "factor", scaling);
                return (Array.ConvertAll(Plain(rotaryDim, theta), f => f / factor), 1);
            case RopeScalingType.Dynamic:
                return (Plain(rotaryDim, DynamicBase(rotaryDim, theta, scaling, maxPositionEmbeddings, sequenceLength)), 1);
            case RopeScalingType.Llama3:
                return (Llama3(Plain(rotaryDim, theta), scaling), 1);
            case RopeScalingType.Yarn:
                return Yarn(rotaryDim, theta, scaling, maxPositionEmbeddings);
            case RopeScalingType.LongRope:
                return LongRope(rotaryDim, theta, scaling, maxPositionEmbeddings, sequenceLength);
            default:
                throw new ArgumentOutOfRangeException(nameof(scaling), scaling.Type, "unknown rope scaling");
        }
    }

    // theta^(2i / dim), each step rounded to fp32.
    private static float[] Powers(int rotaryDim, double theta)
    {
        var powers = new float[rotaryDim / 2];
        for (int i = 0; i < powers.Length; i++)
            powers[i] = (float)Math.Pow((float)theta, 2f * i / rotaryDim);
        return powers;
    }

    private static float[] Plain(int rotaryDim, double theta) => Array.ConvertAll(Powers(rotaryDim, theta), p => 1 / p);

    private static double DynamicBase(int rotaryDim, double theta, RopeScaling scaling, int maxPositionEmbeddings, int sequenceLength)
    {
        double factor = Positive(scaling.Factor, "factor", scaling), limit = Positive(maxPositionEmbeddings, "max_position_embeddings", scaling);
        if (rotaryDim == 2)
            throw new UserErrorException("rope scaling dynamic: needs more than 2 rotated elements per head");
        double length = Math.Max(sequenceLength, limit);
        return theta * Math.Pow(factor * length / limit - (factor - 1), rotaryDim / (rotaryDim - 2.0));
    }

    private static float[] Llama3(float[] frequencies, RopeScaling scaling)
    {
        float factor = (float)Positive(scaling.Factor, "factor", scaling);
        float low = (float)Positive(scaling.LowFreqFactor, "low_freq_factor", scaling), high = (float)Positive(scaling.HighFreqFactor, "high_freq_factor", scaling);
        float original = (float)Positive(scaling.OriginalMaxPosition, "original_max_position_embeddings", scaling);
        if (high <= low)
            throw new UserErrorException($"rope scaling llama3: high_freq_factor {high} must be above low_freq_factor {low}");
        return Array.ConvertAll(frequencies, f =>
        {
            float wavelength = (float)(2 * Math.PI) / f;
            if (wavelength > original / low)
                return f / factor;
            if (wavelength < original / high)
                return f;
            float smooth = (original / wavelength - low) / (high - low);
            return (1 - smooth) * f / factor + smooth * f;
        });
    }

    private static (float[] Frequencies, float AttentionFactor) Yarn(int rotaryDim, double theta, RopeScaling scaling, int maxPositionEmbeddings)
    {
        double original = Positive(scaling.OriginalMaxPosition > 0 ? scaling.OriginalMaxPosition : maxPositionEmbeddings, "original_max_position_embeddings", scaling);
        double factor = scaling.Factor > 0 ? scaling.Factor : Positive(maxPositionEmbeddings / original, "factor", scaling);
        double fast = scaling.BetaFast > 0 ? scaling.BetaFast : 32, slow = scaling.BetaSlow > 0 ? scaling.BetaSlow : 1;

        double first = RotationsAt(fast), last = RotationsAt(slow);
        if (scaling.Truncate)
            (first, last) = (Math.Floor(first), Math.Ceiling(last));
        (first, last) = (Math.Max(first, 0), Math.Min(last, rotaryDim - 1));
        if (first == last)
            last += 0.001;

        float[] powers = Powers(rotaryDim, theta);
        var frequencies = new float[powers.Length];
        for (int i = 0; i < frequencies.Length; i++)
        {
            float kept = 1 - Math.Clamp((i - (float)first) / (float)(last - first), 0f, 1f);
            frequencies[i] = 1 / ((float)factor * powers[i]) * (1 - kept) + 1 / powers[i] * kept;
        }
        return (frequencies, (float)(scaling.AttentionFactor ?? AttentionFactor()));

        // The dimension whose pair turns this often over the original context.
        double RotationsAt(double rotations) => rotaryDim * Math.Log(original / (rotations * 2 * Math.PI)) / (2 * Math.Log(theta));

        double AttentionFactor() => scaling.Mscale is > 0 or < 0 && scaling.MscaleAllDim is > 0 or < 0
            ? Magnitude(scaling.Mscale.Value) / Magnitude(scaling.MscaleAllDim.Value)
            : Magnitude(1);

        double Magnitude(double mscale) => factor <= 1 ? 1 : 0.1 * mscale * Math.Log(factor) + 1;
    }

    private static (float[] Frequencies, float AttentionFactor) LongRope(int rotaryDim, double theta, RopeScaling scaling, int maxPositionEmbeddings, int sequenceLength)
    {
        double limit = Positive(maxPositionEmbeddings, "max_position_embeddings", scaling);
        bool given = scaling.OriginalMaxPosition > 0;
        double original = given ? scaling.OriginalMaxPosition : limit;
        bool beyond = sequenceLength > original;
        string name = beyond ? "long_factor" : "short_factor";
        IReadOnlyList<double> divisors = (beyond ? scaling.LongFactors : scaling.ShortFactors)
            ?? throw new UserErrorException($"rope scaling longrope: the config gives no {name}");
        if (divisors.Count != rotaryDim / 2)
            throw new UserErrorException($"rope scaling longrope: {name} has {divisors.Count} entries; needs one per pair, {rotaryDim / 2}");

        float[] frequencies = Powers(rotaryDim, theta);
        for (int i = 0; i < frequencies.Length; i++)
            frequencies[i] = 1 / ((float)Positive(divisors[i], name, scaling) * frequencies[i]);
        double attention = scaling.AttentionFactor ?? AttentionFactor();
        return (frequencies, (float)attention);

        double AttentionFactor()
        {
            double factor = given ? limit / original : Positive(scaling.Factor, "factor", scaling);
            return factor <= 1 ? 1 : Math.Sqrt(1 + Math.Log(factor) / Math.Log(original));
        }
    }

    private static double Positive(double value, string name, RopeScaling scaling)
    {
        if (value > 0 && !double.IsInfinity(value))
            return value;
        throw new UserErrorException($"rope scaling {scaling.Type.ToString().ToLowerInvariant()}: {name} is {value}; the config must give a positive number");
    }
}
