using System.Text.Json.Nodes;
using System.Text.RegularExpressions;
using Repeng.Kernels;
using Repeng.Runtime.Tokenizers;
using Repeng.Steering.Evaluation;
using Repeng.Testing;

namespace Repeng.Steering.Tests.Evaluation;

/// <summary>Statistics and choice tokens of the binary evaluation against the original's functions.</summary>
[Trait("Category", "Golden")]
[Trait("Golden", "vectors")]
public sealed class BinaryLogRatioGoldenTests
{
    private const double Exact = 1e-12, Probability = 1e-9;

    [Fact]
    public void Regression_is_that_of_the_original()
    {
        JsonArray cases = Json()["binary_log_ratio"]!.AsArray();
        Assert.NotEmpty(cases);
        for (int i = 0; i < cases.Count; i++)
        {
            JsonObject wanted = cases[i]!.AsObject();
            string where = $"{i} ({wanted["name"]})";
            double[] coefficients = [.. wanted["coeff"]!.AsArray().Select(c => (double)c!)];
            double[] ratios = [.. wanted["log_ratio"]!.AsArray().Select(c => (double?)c ?? double.NaN)];
            if (wanted["scipy_error"] is not null)
            {
                Assert.Throws<UserErrorException>(() => LogRatioRegression.Of(coefficients, ratios));
                continue;
            }
            LogRatioRegression r = LogRatioRegression.Of(coefficients, ratios);
            Assert.Equal((int)wanted["n_valid"]!, r.Count);
            double spread = Math.Abs(r.Slope);
            foreach ((string key, JsonNode? value) in wanted)
            {
                if (key is "name" or "coeff" or "log_ratio" or "n_valid")
                    continue;
                // A mean near zero keeps the digits of the values, and 1 − r² those of 1.
                (double actual, double tolerance, double absolute) = key switch
                {
                    "valid_frac" => (r.ValidFraction, Exact, 0.0),
                    "slope" => (r.Slope, Exact, 1e-14),
                    "intercept" => (r.Intercept, Exact, 1e-14 * Math.Max(Math.Abs(r.Min), Math.Abs(r.Max))),
                    "r2" => (r.R2, Exact, 1e-15),
                    "p_value" => (r.PValue, Probability, 1e-15),
                    "std_err" => (r.StandardError, Probability, 5e-8 * spread),
                    "min" => (r.Min, 0.0, 0.0),
                    "max" => (r.Max, 0.0, 0.0),
                    "score" => (r.Score, Exact, 1e-15),
                    "score_with_range" => (r.ScoreWithRange, Exact, 1e-14),
                    "effect_size" => (r.EffectSize, Exact, 1e-14),
                    _ => throw new InvalidDataException($"{where}: statistic {key} is not understood"),
                };
                if (value is null)
                    Assert.True(double.IsNaN(actual), $"{where} {key}: {actual}, the original has none");
                else
                    Assert.True(Math.Abs(actual - (double)value) <= tolerance * Math.Abs((double)value) + absolute, $"{where} {key}: {actual:R}, original {(double)value:R}");
            }
        }
    }

    [Fact]
    public void Choice_tokens_are_those_of_the_original()
    {
        JsonObject families = Json()["choice_tokens"]!.AsObject();
        Assert.NotEmpty(families);
        foreach ((string family, JsonNode? rules) in families)
        {
            Tokenizer tokenizer = Tokenizer.Load(Golden.RequireBeside("tokenizers", family));
            foreach ((string rule, JsonNode? choices) in rules!.AsObject())
            {
                Match slack = Regex.Match(rule, @"^len_below_plus_(\d+)$");
                Assert.True(slack.Success, $"rule {rule} is not understood");
                foreach ((string choice, JsonNode? wanted) in choices!.AsObject())
                    Assert.Equal(wanted!["ids"]!.AsArray().Select(x => (int)x!), BinaryLogRatio.ChoiceTokens(tokenizer, choice, int.Parse(slack.Groups[1].Value)));
            }
        }
    }

    [Fact]
    public void The_last_match_decides()
    {
        Tokenizer tokenizer = Tokenizer.Load(Directory.GetDirectories(Golden.RequireBeside("tokenizers")).Order(StringComparer.Ordinal).First());
        var decision = new Regex("Final choice: (Yes|No)");
        int[] ids = tokenizer.Encode("Final choice: Yes, or rather. Final choice: No", addSpecialTokens: false);
        int[] longer = [.. ids, .. tokenizer.Encode(" and so on", addSpecialTokens: false)];
        Assert.Equal(ids.Length - 1, BinaryLogRatio.DecisionToken(tokenizer, longer, decision));
        Assert.Null(BinaryLogRatio.DecisionToken(tokenizer, tokenizer.Encode("nothing is chosen", addSpecialTokens: false), decision));
    }

    private static JsonObject Json() => GoldenFiles.Json(Golden.Require("vectors", "eval.json"));
}

/// <summary>The ratio of two token sets by its definition.</summary>
public sealed class BinaryLogRatioTests
{
    [Fact]
    public void Ratio_and_mass_follow_the_probabilities()
    {
        double[] p = [0.1, 0.2, 0.3, 0.4];
        // A common offset of the logits cancels.
        float[] logits = [.. p.Select(x => (float)(Math.Log(x) + 5))];
        (double ratio, double mass) = BinaryLogRatio.Measure(logits, [0, 2], [1]);
        Assert.Equal(Math.Log(0.4 / 0.2), ratio, 1e-6);
        Assert.Equal(0.6, mass, 1e-6);
    }
}
