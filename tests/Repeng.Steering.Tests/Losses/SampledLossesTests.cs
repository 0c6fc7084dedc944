using System.Globalization;
using System.Text.Json.Nodes;
using System.Text.RegularExpressions;
using Repeng.Kernels;
using Repeng.Runtime.Formats;
using Repeng.Steering.Losses;
using Repeng.Testing;

namespace Repeng.Steering.Tests.Losses;

/// <summary>Values and input gradients of the sampled losses against the original's, in double precision.</summary>
[Trait("Category", "Golden")]
[Trait("Golden", "vectors")]
public sealed class SampledLossesGoldenTests
{
    // Relative to the largest element of a row's gradient, which is what its last digits belong to. Where a gradient is
    // zero because its terms cancel (the cosine of a text with itself), both sides keep the rounding of those terms.
    private const double Exact = 1e-12, Cancelled = 1e-16;

    /// <summary>Every loss of the golden file, or one row that makes the test skip.</summary>
    public static IEnumerable<TheoryDataRow<string>> Losses() => File.Exists(Golden.Path("vectors", "losses.json"))
        ? GoldenFiles.Json(Golden.Path("vectors", "losses.json")).Select(l => new TheoryDataRow<string>(l.Key))
        : [new TheoryDataRow<string>("(absent)")];

    [Theory]
    [MemberData(nameof(Losses))]
    public void Value_and_gradients_are_those_of_the_original(string loss)
    {
        JsonObject wanted = GoldenFiles.Json(Golden.Require("vectors", "losses.json"))[loss]!.AsObject();
        using SafetensorsFile file = SafetensorsFile.Open(Golden.Require("vectors", "losses.safetensors"));
        // "simpo_ls0.1" is simpo with that label smoothing.
        Match smoothed = Regex.Match(loss, @"^(.*)_ls([0-9.]+)$");
        string name = smoothed.Success ? smoothed.Groups[1].Value : loss;
        var settings = new SampledLossSettings { LabelSmoothing = smoothed.Success ? double.Parse(smoothed.Groups[2].Value, CultureInfo.InvariantCulture) : 0 };
        string[] inputs = [.. wanted["inputs"]!.AsArray().Select(i => (string)i!)];
        Assert.NotEmpty(wanted["cases"]!.AsObject());
        foreach ((string c, JsonNode? expected) in wanted["cases"]!.AsObject())
        {
            string at = $"{loss}/{c}", first = $"{at}/in/{inputs[0]}";
            int pairs = (int)file.Info(first).Shape[0], d = inputs.Contains("h_pos") ? (int)file.Info(first).Shape[1] : 0;
            double[] logp = Interleave(file, at, inputs, "logp", pairs, 1);
            double[] reference = Interleave(file, at, inputs, "ref_logp", pairs, 1);
            // The margin reads the positive text's alone; the negative one's may be anything.
            SampledLossResult got = SampledLosses.Compute(name, Interleave(file, at, inputs, "h", pairs, d), 2 * pairs, d, logp, reference.Length == 0 ? settings : settings with { ReferenceLogp = reference });
            Close((double)expected!["loss"]!, got.Loss, $"{at} loss");
            Close(file.ReadF64($"{at}/loss")[0], got.Loss, $"{at} loss");
            Assert.Equal(got.Loss, got.Parts.Values.Sum(), Math.Abs(got.Loss) * Exact);
            foreach (string input in inputs)
            {
                (double[] gradient, int width) = input.Split('_')[0] switch
                {
                    "h" => (got.HiddenGradient, d),
                    "logp" => (got.LogpGradient, 1),
                    "ref" => (got.ReferenceLogpGradient!, 1),
                    _ => throw new InvalidDataException($"{at}: input {input} is not understood"),
                };
                int sign = input.EndsWith("_pos", StringComparison.Ordinal) ? 0 : 1;
                double[] golden = file.ReadF64($"{at}/grad/{input}");
                for (int pair = 0; pair < pairs; pair++)
                {
                    double[] row = golden[(pair * width)..((pair + 1) * width)];
                    double scale = row.Max(Math.Abs);
                    for (int i = 0; i < width; i++)
                    {
                        double value = gradient[(2 * pair + sign) * width + i];
                        Assert.True(Math.Abs(value - row[i]) <= Exact * scale + Cancelled, $"{at} gradient of {input}, pair {pair}, {i}: {value:R}, original {row[i]:R}");
                    }
                }
            }
        }
    }

    private static void Close(double wanted, double actual, string what) =>
        Assert.True(Math.Abs(actual - wanted) <= Exact * Math.Abs(wanted), $"{what}: {actual:R}, original {wanted:R}");

    // Rows as positive, negative, positive, …; a side that the loss does not read is zero.
    private static double[] Interleave(SafetensorsFile file, string at, string[] inputs, string input, int pairs, int width)
    {
        if (!inputs.Any(i => i == $"{input}_pos" || i == $"{input}_neg"))
            return [];
        var rows = new double[2 * pairs * width];
        foreach ((string suffix, int sign) in new[] { ("pos", 0), ("neg", 1) })
            if (inputs.Contains($"{input}_{suffix}"))
            {
                double[] values = file.ReadF64($"{at}/in/{input}_{suffix}");
                for (int pair = 0; pair < pairs; pair++)
                    values.AsSpan(pair * width, width).CopyTo(rows.AsSpan((2 * pair + sign) * width));
            }
        return rows;
    }
}

/// <summary>The sampled losses against finite differences, and what they refuse.</summary>
public sealed class SampledLossesTests
{
    private static readonly double[] s_hidden = [0.4, -1.1, 0.3, 0.9, 0.2, -0.7, 0.31, 0.12, -0.2, 0.25, 0.3, -0.1];
    private static readonly double[] s_logp = [-1.2, -0.7, -2.3, -2.1];

    /// <summary>Every loss.</summary>
    public static IEnumerable<TheoryDataRow<string>> Names() => SampledLosses.Names.Select(n => new TheoryDataRow<string>(n));

    [Theory]
    [MemberData(nameof(Names))]
    public void Gradients_are_those_of_the_value(string name)
    {
        // The margin's bound has no gradient, so its value alone does not tell; it has its own test.
        var settings = new SampledLossSettings { MarginWeight = 0, LabelSmoothing = 0.05, ReferenceLogp = name == "dpo_ref" ? [-1, -1.1, -2, -2.5] : null };
        SampledLossResult result = SampledLosses.Compute(name, s_hidden, 4, 3, s_logp, settings);
        Assert.Equal(SampledLosses.ReadsHidden(name), result.HiddenGradient.Any(g => g != 0));
        const double h = 1e-5;
        for (int i = 0; i < s_hidden.Length; i++)
            Assert.Equal((Moved(i, h, -1, 0) - Moved(i, -h, -1, 0)) / (2 * h), result.HiddenGradient[i], 1e-8);
        for (int i = 0; i < s_logp.Length; i++)
            Assert.Equal((Moved(-1, 0, i, h) - Moved(-1, 0, i, -h)) / (2 * h), result.LogpGradient[i], 1e-8);

        double Moved(int hidden, double by, int logp, double byLogp)
        {
            double[] x = [.. s_hidden], l = [.. s_logp];
            if (hidden >= 0)
                x[hidden] += by;
            if (logp >= 0)
                l[logp] += byLogp;
            return SampledLosses.Compute(name, x, 4, 3, l, settings).Loss;
        }
    }

    [Fact]
    public void The_margin_holds_the_text_that_it_is_told_to()
    {
        SampledLossResult right = SampledLosses.Compute("reprpo_nll_margin", s_hidden, 4, 3, s_logp, new()), wrong = SampledLosses.Compute("reprpo_nll_margin", s_hidden, 4, 3, s_logp, new() { MarginOnNegative = true });
        Assert.Equal((1.2 * 1.2 + 2.3 * 2.3) / 2, right.Parts["coherence"], 1e-9);
        Assert.Equal((0.7 * 0.7 + 2.1 * 2.1) / 2, wrong.Parts["coherence"], 1e-9);
        Assert.Equal([-200 * 1.2 / 2, 0, -200 * 2.3 / 2, 0], right.LogpGradient, (a, b) => Math.Abs(a - b) < 1e-9);
        Assert.Equal([0, -200 * 0.7 / 2, 0, -200 * 2.1 / 2], wrong.LogpGradient, (a, b) => Math.Abs(a - b) < 1e-9);
        Assert.Equal(right.Parts["separation"], wrong.Parts["separation"]);
    }

    [Fact]
    public void Far_margins_neither_overflow_nor_vanish()
    {
        SampledLossResult lost = SampledLosses.Compute("simpo", [], 2, 0, [-900, -1], new()), won = SampledLosses.Compute("simpo", [], 2, 0, [-1, -21], new());
        Assert.Equal(2 * 899.25, lost.Loss, 1e-9);
        Assert.Equal([-2.0, 2.0], lost.LogpGradient);
        Assert.Equal(Math.Exp(-39.5), won.Loss, Math.Exp(-39.5) * 1e-12);
    }

    [Fact]
    public void What_cannot_be_computed_is_said()
    {
        string unknown = Refusal("bogus", s_logp, new());
        Assert.All(SampledLosses.Names, n => Assert.Contains(n, unknown));
        Assert.Contains("reference", Refusal("dpo_ref", s_logp, new()));
        Assert.Contains("dpo_ref", Refusal("dpo", s_logp, new() { ReferenceLogp = s_logp }));
        Assert.Contains("row 2 (pair 1, positive)", Refusal("dpo", [-1, -1, double.NaN, -1], new()));
        Assert.Contains("label smoothing", Refusal("dpo", s_logp, new() { LabelSmoothing = 2 }));
        Assert.Throws<ArgumentException>(() => SampledLosses.Compute("kpo", s_hidden, 3, 4, [], new()));
        Assert.Throws<ArgumentException>(() => SampledLosses.Compute("kpo", s_hidden, 4, 4, [], new()));
        Assert.Throws<ArgumentException>(() => SampledLosses.Compute("reprpo_nll_margin", s_hidden, 4, 3, [], new()));

        static string Refusal(string name, double[] logp, SampledLossSettings settings) =>
            Assert.Throws<UserErrorException>(() => SampledLosses.Compute(name, s_hidden, 4, 3, logp, settings)).Message;
    }
}
