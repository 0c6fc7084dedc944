using System.Text.Json.Nodes;
using Repeng.Kernels;
using Repeng.Steering.Evaluation;
using Repeng.Testing;

namespace Repeng.Steering.Tests.Evaluation;

/// <summary>Steering F1 against the original's, in both golden files that have it.</summary>
[Trait("Category", "Golden")]
public sealed class SteeringF1GoldenTests
{
    // Denominators carry the original's additions, so that only rounding is left.
    private const double Exact = 1e-12;

    [Fact]
    [Trait("Golden", "vectors")]
    public void Cases_beside_the_vectors_are_those_of_the_original()
    {
        JsonArray cases = GoldenFiles.Json(Golden.Require("vectors", "eval.json"))["steering_f1"]!.AsArray();
        Assert.NotEmpty(cases);
        for (int i = 0; i < cases.Count; i++)
        {
            JsonObject c = cases[i]!.AsObject(), mass = c["pmass"]!.AsObject();
            SteeringF1 got = SteeringF1.Of(Sweep(c["target"]!), Sweep(c["arbitrary"]!), (double)mass["pos"]!, (double)mass["neg"]!, (double)mass["ref"]!);
            Compare(c["expected"]!.AsObject(), got, $"{i} ({c["name"]})");
            if (c["formula_value"] is { } plain)
                Assert.True(Math.Abs(got.F1 - (double)plain) <= 1e-6 * Math.Abs((double)plain), $"{i} ({c["name"]}): {got.F1}, by the plain formula {(double)plain}");
        }

        static SweepLogOdds Sweep(JsonNode set) => new(Values(set["neg"]!), Values(set["zero"]!), Values(set["pos"]!));
    }

    [Fact]
    [Trait("Golden", "adapter")]
    public void Cases_beside_the_adapter_are_those_of_the_original()
    {
        JsonArray cases = JsonNode.Parse(File.ReadAllText(Golden.Require("adapter", "steering-f1.json")))!.AsArray();
        Assert.NotEmpty(cases);
        for (int i = 0; i < cases.Count; i++)
        {
            JsonObject c = cases[i]!.AsObject();
            SteeringF1 got = SteeringF1.Of(Sweep(c, "target"), Sweep(c, "arbitrary"), (double)c["pmass_pos"]!, (double)c["pmass_neg"]!, (double)c["pmass_ref"]!);
            Compare(c["result"]!.AsObject(), got, $"{i}");
        }

        static SweepLogOdds Sweep(JsonObject c, string set) => new(Values(c[$"y_neg_{set}"]!), Values(c[$"y_0_{set}"]!), Values(c[$"y_pos_{set}"]!));
    }

    private static double[] Values(JsonNode array) => [.. array.AsArray().Select(x => (double?)x ?? double.NaN)];

    private static void Compare(JsonObject wanted, SteeringF1 got, string where)
    {
        foreach ((string key, JsonNode? value) in wanted)
        {
            double actual = key switch
            {
                "steering_f1" => got.F1,
                "steering_f1_raw" => got.Raw,
                "net_correct" => got.Net,
                "correct_w" => got.Correct,
                "wrong_w" => got.Wrong,
                "arb_w" => got.Arbitrary,
                "correct_rate" => got.CorrectRate,
                "wrong_rate" => got.WrongRate,
                "arb_rate" => got.ArbitraryRate,
                "precision" => got.Precision,
                "recall" => got.Recall,
                "pmass_ratio" => got.MassRatio,
                _ => throw new InvalidDataException($"{where}: {key} is not understood"),
            };
            if (value is null)
                Assert.True(double.IsNaN(actual), $"{where} {key}: {actual}, the original has none");
            else
                Assert.True(Math.Abs(actual - (double)value) <= Exact * Math.Max(1e-3, Math.Abs((double)value)), $"{where} {key}: {actual:R}, original {(double)value:R}");
        }
    }
}

/// <summary>Steering F1 on cases that can be done in the head.</summary>
public sealed class SteeringF1Tests
{
    [Fact]
    public void Answers_that_turn_count_by_how_sure_they_were()
    {
        // Of the target, 3 of 4 turn the right way and none the wrong way; of the others, 1 of 4 turns.
        SteeringF1 f1 = SteeringF1.Of(new([-3, -1], [-3, -1], [3, -0.5]), new([1, 3], [1, 3], [-1, 3]), 0.9, 0.9, 0.9);
        Assert.Equal(0.75, f1.Recall, 1e-8);
        Assert.Equal(0.25, f1.Arbitrary, 1e-8);
        Assert.Equal(0.75, f1.Precision, 1e-8);
        Assert.Equal(75, f1.F1, 1e-6);
        Assert.Equal(0.5, f1.CorrectRate);
    }

    [Fact]
    public void A_direction_with_the_other_sign_has_the_same_value()
    {
        SweepLogOdds target = new([-3, -1, 2], [-1, 0.5, -2], [2, 3, 3]), other = new([1, -1], [1, 1], [1, 1]);
        Assert.Equal(SteeringF1.Of(target, other, 0.9, 0.8, 1), SteeringF1.Of(new(target.Positive, target.Zero, target.Negative), new(other.Positive, other.Zero, other.Negative), 0.8, 0.9, 1));
    }

    [Fact]
    public void An_empty_set_is_refused() =>
        Assert.Contains("2 and 0", Assert.Throws<UserErrorException>(() => SteeringF1.Of(new([1, 1], [1, 1], [1, 1]), new([], [], []), 1, 1, 1)).Message);
}
