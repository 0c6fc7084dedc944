using Repeng.Kernels;
using Repeng.Steering.Data;
using Repeng.Steering.Evaluation;

namespace Repeng.Steering.Tests.Evaluation;

/// <summary>What is said of dilemmas, on answers that are given.</summary>
public sealed class DilemmaRunTests
{
    private static readonly Dilemma[] s_dilemmas =
    [
        New("tell", ("truth", 1), ("care", -1)), New("lie", ("truth", -1), ("loyalty", 1)), New("seat", ("care", 1)), New("trip", ("adventure", 1)),
    ];

    [Fact]
    public void Probabilities_effects_and_f1_follow_the_answers()
    {
        // Toward the truth: tell −2, −1, 3; lie −1, 1, 2 (so its yes is 1, −1, −2). Controls toward yes: seat 1, 1, 3; trip −1, −1, 1.
        EvalRun run = EvalRun.Of([Cell(-1, -2, -1, 1, -1), Cell(0, -1, 1, 1, -1), Cell(1, 3, 2, 3, 1)]);
        var d = new DilemmaRun(run, s_dilemmas, "truth");
        Assert.Equal((2, 2), (d.TargetCount, d.ControlCount));
        YesRow plus = d.Yes[2];
        Assert.Equal((P(3) + P(2)) / 2, plus.Target, 1e-12);
        Assert.Equal((P(3) + P(1)) / 2, plus.Control, 1e-12);
        Assert.Equal((P(3) + P(-2) + P(3) + P(1)) / 4, plus.Yes, 1e-12);
        Assert.Equal(Math.Abs(P(3) - P(2)) / 2, plus.TargetError, 1e-12);
        Assert.Equal([-1.5, 0, 2.5], d.OnTarget.Rows.Select(r => r.LogOdds));

        Dictionary<string, TransferRow> transfer = d.Transfer.ToDictionary(t => t.Value);
        Assert.Equal("truth", d.Transfer[0].Value);
        Assert.Equal((2.5 + 1.5) / 2, transfer["truth"].Effect, 1e-12);
        // care: against it in tell (+2.5 toward yes), for it in seat (+1).
        Assert.Equal((-2.5 + 1) / 2, transfer["care"].Effect, 1e-12);
        Assert.Equal(-1.5, transfer["loyalty"].Effect, 1e-12);
        Assert.Equal(1, transfer["adventure"].Effect, 1e-12);
        Assert.Equal((0.75 + 1.5 + 1) / 3, d.SideEffect("m", 1), 1e-12);

        // tell turns the right way and has half the weight; trip of the controls turns.
        SteeringF1 f1 = Assert.Single(d.F1).Result;
        Assert.Equal(0.5, f1.Recall, 1e-8);
        Assert.Equal(0.5, f1.Arbitrary, 1e-8);
        Assert.Equal(50, f1.F1, 1e-5);
        // Between both ends all of the target turns and half of the controls.
        Assert.Equal(2, d.F1[0].Focus, 1e-12);

        DoseResponse dose = d.Doses["m"];
        Assert.Equal(4, dose.Separation, 1e-12);
        Assert.Equal(2, dose.Slope, 1e-12);
        Assert.Equal(1 - 1.0 / 4, dose.Symmetry, 1e-12);
        Assert.True(dose.Monotonic);
        Assert.Equal(1 + 3, d.YesCsv().Split('\n', StringSplitOptions.RemoveEmptyEntries).Length);
        Assert.Equal(1 + 4, d.TransferCsv().Split('\n', StringSplitOptions.RemoveEmptyEntries).Length);
        Assert.Equal(50, (double)d.ToJson()["steering_f1"]![0]!["steering_f1"]!, 1e-5);
    }

    [Fact]
    public void Answers_that_are_not_known_are_left_out()
    {
        EvalRun run = EvalRun.Of([Cell(-1, -2, double.NaN, 1, -1), Cell(0, -1, 1, 1, -1), Cell(1, 3, 2, 3, double.NaN)]);
        var d = new DilemmaRun(run, s_dilemmas, "truth");
        Assert.Equal(3, d.Yes[0].Count);
        // Of each set one dilemma has all three answers; tell turns and seat stays.
        Assert.Equal(100, d.F1[0].Result.F1, 1e-5);
        Assert.True(double.IsNaN(d.F1[0].Focus));
        Assert.Equal(1, d.Transfer[0].Count);
        Assert.True(double.IsNaN(d.Transfer[0].Error));
    }

    [Fact]
    public void Without_controls_there_is_no_f1_and_without_a_target_nothing()
    {
        EvalRun run = EvalRun.Of([Cell(-1, -2, -1), Cell(0, -1, 1), Cell(1, 3, 2)]);
        Assert.Empty(new DilemmaRun(run, s_dilemmas, "truth").F1);
        Assert.Contains("'adventure'", Assert.Throws<UserErrorException>(() => new DilemmaRun(run, s_dilemmas, "adventure")).Message);
        Assert.Contains("care (2)", Assert.Throws<UserErrorException>(() => DilemmaRun.RequireTarget(s_dilemmas, "honesty")).Message);
    }

    [Fact]
    public void A_dose_response_tells_one_side_from_two()
    {
        DoseResponse even = DoseResponse.Of([1, -1, 0, -2, 2], [3.5, 2.5, 3, 2, 4]), oneSided = DoseResponse.Of([-1, 0, 1], [0, 0, 2]), back = DoseResponse.Of([-1, 0, 1], [2, 0, 2]);
        Assert.Equal((0.5, 1, 2, 1), (even.Slope, even.R2, even.Separation, even.Symmetry));
        Assert.True(even.Monotonic);
        Assert.Equal(0, oneSided.Symmetry);
        Assert.Equal(1, oneSided.Slope);
        Assert.Equal(0.5, oneSided.R2, 1e-12);
        // Rest 2 over one degree of freedom and Σc² = 2: standard error 1.
        Assert.Equal(1, oneSided.T, 1e-12);
        Assert.Equal(0, back.Symmetry);
        Assert.False(back.Monotonic);
        Assert.Null(DoseResponse.Of([-1, 0], [1, 2]).Monotonic);
        Assert.True(double.IsNaN(DoseResponse.Of([-1, 1, 2], [1, 2, 3]).Slope));
        Assert.True(double.IsNaN(DoseResponse.Of([0], [double.NaN]).Separation));
    }

    private static Dilemma New(string id, params (string Value, double Label)[] values) => new(id, id, id, values.ToDictionary(v => v.Value, v => v.Label));

    private static EvalCell Cell(float c, params double[] odds) => new("m", c, [.. odds.Select((y, i) => new ChoiceResult(s_dilemmas[i].Id, y, 0.9) { InputNll = 1 })]);

    private static double P(double x) => 1 / (1 + Math.Exp(-x));
}
