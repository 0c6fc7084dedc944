using Repeng.Kernels;
using Repeng.Runtime;
using Repeng.Steering.Data;
using Repeng.Steering.Evaluation;
using Repeng.Steering.Generation;
using Repeng.Steering.Models;
using Repeng.Steering.Training;
using Repeng.Steering.Vectors;
using Repeng.Testing;

namespace Repeng.Steering.Tests.Evaluation;

/// <summary>An evaluation as a whole, on a tiny model.</summary>
[Trait("Category", "Golden")]
[Trait("Golden", "adapter")]
public sealed class EvalRunTests
{
    [Fact]
    public void Rows_regressions_and_files_agree_and_changes_are_paired()
    {
        using Device device = Device.Cpu();
        using DecoderModel model = GoldenFiles.Load(device, Path.Combine(Golden.Require("adapter"), "model"));
        int last = model.Config.NumLayers - 1;
        ControlVector mean = BlockVectors.MeanDifference(model, [0, last], [new TokenPair([1, 2, 3], [1, 4, 3])], 0);
        ControlVector random = BlockVectors.RandomLike(mean, 7);
        foreach ((string layer, Direction v) in mean.Directions)
            Assert.Equal(Norm(v), Norm(random.Directions[layer]), 1e-4 * Norm(v));
        using var control = new VectorControl(model, mean);

        ChoiceItem[] items = [new("a, b", [1, 2], [[3]], [[4], [5]]), new("c", [5, 6, 7], [[8]], [[9]])];
        EvalRun run = EvalRun.Run(model,
        [
            new EvalMethod("mean", new Repeng.Steering.Generation.Steering(null, control), [-1, 1], items),
            new EvalMethod("prompt", Repeng.Steering.Generation.Steering.None, [0], items),
        ]);
        Assert.Equal([-1f, 0f, 1f, 0f], run.Rows.Select(r => r.Coefficient));
        Assert.All(run.Rows.Where(r => r.Coefficient == 0), r => Assert.Equal(0, r.Change));
        Assert.NotEqual(0, run.Rows[2].Change);
        EvalRow plus = run.Rows[2], zero = run.Rows[1];
        Assert.Equal(plus.LogOdds - zero.LogOdds, plus.Change, 1e-9);
        Assert.Equal(["mean"], run.Regressions.Keys);
        Assert.Equal(1 + 4 * items.Length, run.ResultsCsv().Split('\n', StringSplitOptions.RemoveEmptyEntries).Length);
        Assert.Contains("\"a, b\"", run.ResultsCsv());
        Assert.Equal(4, run.ToJson()["rows"]!.AsArray().Count);
    }

    [Fact]
    public void Input_nll_is_the_mean_over_the_prompts_own_tokens()
    {
        using Device device = Device.Cpu();
        using DecoderModel model = GoldenFiles.Load(device, Path.Combine(Golden.Require("adapter"), "model"));
        ChoiceItem[] single = [new("a", [1, 2, 7], [[3]], [[4], [5]]), new("b", [5, 6, 7, 9, 2], [[8]], [[9]])];
        ChoiceItem[] several = [.. single.Select(i => i with { True = [[3, 4]], False = [[4], [5, 1]] })];
        foreach (ChoiceItem[] items in new[] { single, several })
        {
            ChoiceResult[] results = new TruthEvaluator(model, 16) { MeasureInput = true }.Run(items, Repeng.Steering.Generation.Steering.None, 0);
            for (int i = 0; i < items.Length; i++)
            {
                int[] prompt = items[i].Prompt;
                using var tape = new Repeng.Autograd.Tape(device, record: false);
                float[] logits = model.Logits(tape, model.Forward(new ForwardContext(tape, TokenBatch.Pad([prompt], 0)))).ToArray();
                int v = model.Config.VocabSize;
                double nll = Enumerable.Range(0, prompt.Length - 1).Average(t =>
                {
                    double[] row = [.. logits.AsSpan(t * v, v).ToArray().Select(x => (double)x)];
                    return Math.Log(row.Sum(Math.Exp)) - row[prompt[t + 1]];
                });
                Assert.Equal(nll, results[i].InputNll, 1e-4);
            }
            Assert.All(new TruthEvaluator(model, 16).Run(items, Repeng.Steering.Generation.Steering.None, 0), r => Assert.True(double.IsNaN(r.InputNll)));
        }
    }

    [Fact]
    public void Methods_with_other_questions_are_refused()
    {
        using Device device = Device.Cpu();
        using DecoderModel model = GoldenFiles.Load(device, Path.Combine(Golden.Require("adapter"), "model"));
        ChoiceItem item = new("a", [1, 2], [[3]], [[4]]);
        Assert.Throws<UserErrorException>(() => EvalRun.Run(model, [new EvalMethod("x", Repeng.Steering.Generation.Steering.None, [0], [])]));
        Assert.Throws<ArgumentException>(() => EvalRun.Run(model, [new EvalMethod("x", Repeng.Steering.Generation.Steering.None, [0], [item]), new EvalMethod("y", Repeng.Steering.Generation.Steering.None, [0], [item with { Key = "b" }])]));
    }

    private static double Norm(Direction v) => Math.Sqrt(v.Values.Sum(x => (double)x * x));
}

/// <summary>What is said of results, on results that are given.</summary>
public sealed class EvalSumsTests
{
    [Fact]
    public void A_range_is_usable_as_far_as_the_model_is_coherent_without_a_gap()
    {
        EvalRun run = EvalRun.Of(
        [
            Cell(-4, 1, 2.0), Cell(-2, 1, 3.1), Cell(-1, 1, 2.9), Cell(0, 1, 2.0), Cell(1, 0.8, 2.0), Cell(2, 0.79, 2.0), Cell(4, 1, 2.0),
        ]);
        Assert.Equal([true, false, true, true, true, false, true], run.Rows.Select(r => r.Coherent));
        Assert.Equal((-1f, 1f), run.UsableRange["m"]);
        Assert.Equal(1.1, run.Rows[1].InputNllRise, 1e-9);
        // Open endings: what counts is the part of the mass at c = 0.
        Assert.Equal((0f, 1f), EvalRun.Of([Cell(0, 0.5, 2), Cell(1, 0.4, 2), Cell(2, 0.39, 2)]).UsableRange["m"]);

        static EvalCell Cell(float c, double mass, double nll) => new("m", c, [new ChoiceResult("a", c, mass) { InputNll = nll }, new ChoiceResult("b", c + 1, mass) { InputNll = nll }]);
    }

    [Fact]
    public void Thoughts_that_were_cut_are_counted_and_are_no_invalid_answers()
    {
        Thought said = new(5, false, false), cut = new(9, true, false), forced = new(9, true, true);
        EvalRun run = EvalRun.Of([new("m", 0,
        [
            new ChoiceResult("a", 1, 1) { InputNll = 1, Thought = said }, new ChoiceResult("b", double.NaN, double.NaN) { InputNll = 1, Thought = cut },
            new ChoiceResult("c", 3, 1) { InputNll = 1, Thought = forced }, new ChoiceResult("d", double.NaN, double.NaN) { InputNll = 1, Thought = said },
        ])]);
        EvalRow row = run.Rows[0];
        Assert.Equal(new ThoughtCounts(4, 2, 1, 7), row.Thoughts);
        Assert.Equal((2, 2.0), (row.Count, row.LogOdds));
        // Of four answers one was cut and left; of the three others one has no final choice.
        Assert.Equal(2 / 3.0, row.ValidFraction, 1e-12);
        Assert.Contains("\"cut\":2", run.ToJson().ToJsonString());
        Assert.Equal(run.SummaryCsv().Split('\n')[0].Split(',').Length, run.SummaryCsv().Split('\n')[1].Split(',').Length);
        Assert.EndsWith(",4,2,1,7", run.SummaryCsv().Split('\n')[1]);

        EvalRun none = EvalRun.Of([new("m", 0, [new ChoiceResult("b", double.NaN, double.NaN) { InputNll = 1, Thought = cut }])]);
        Assert.True(double.IsNaN(none.Rows[0].ValidFraction));
        Assert.False(none.Rows[0].Coherent);
        Assert.Null(none.ToJson()["rows"]![0]!["valid_frac"]);
    }

    [Fact]
    public void Draws_are_averaged_by_question_and_unknown_answers_lower_the_score()
    {
        EvalRun run = EvalRun.Of([Cell(-1, -3, -1, double.NaN), Cell(0, 0, 2, 4), Cell(1, 3, 5, 7)]);
        // At c = −1: question a has −3 and −1, question b one answer of two, which is −5.
        Assert.Equal((-2 - 5) / 2.0, run.Rows[0].LogOdds, 1e-9);
        Assert.Equal(2, run.Rows[0].Count);
        Assert.Equal(2, run.Rows[0].Draws);
        Assert.Equal(0.75, run.Rows[0].ValidFraction, 1e-9);
        // Errors are over the two questions: −2 and −5 lie 1.5 from their mean.
        Assert.Equal(Math.Sqrt(2 * 1.5 * 1.5 / 1 / 2), run.Rows[0].LogOddsError, 1e-9);
        LogRatioRegression line = run.Regressions["m"];
        double valid = (0.75 + 1 + 1) / 3;
        Assert.Equal(valid, line.ValidFraction, 1e-9);
        Assert.Equal(Math.Abs(line.Slope) * valid * valid * line.R2, line.Score, 1e-9);
        Assert.False(run.Rows[0].Coherent);

        static EvalCell Cell(float c, double a0, double a1, double b1) => new("m", c,
        [
            new ChoiceResult("a", a0, 1) { InputNll = 1 }, new ChoiceResult("b", c - 4, 1) { InputNll = 1 },
            new ChoiceResult("a", a1, 1) { Draw = 1, InputNll = 1 }, new ChoiceResult("b", b1, 1) { Draw = 1, InputNll = 1 },
        ]);
    }

    [Fact]
    public void An_answer_without_a_choice_has_no_log_odds()
    {
        using Device device = Device.Cpu();
        using ModelBundle bundle = ModelBundle.Load(device, ModelBundle.Demo);
        // The demo's world knows no final choices.
        ChoiceItem item = new("a", bundle.EncodeRaw("the color of the"), [[5]], [[6]]);
        var generated = new GeneratedAnswers(bundle, new SamplingSettings { Sample = true }, 4, 2, 8);
        ChoiceResult[] results = generated.Run([item], Repeng.Steering.Generation.Steering.None, 0);
        Assert.Equal([0, 1], results.Select(r => r.Draw));
        Assert.All(results, r => Assert.True(double.IsNaN(r.LogOdds)));
    }
}

/// <summary>The binary set and files with more of it.</summary>
public sealed class BinaryQuestionsTests
{
    [Fact]
    public void Half_of_the_built_in_answers_are_yes_and_no_question_comes_twice()
    {
        foreach (IReadOnlyList<BinaryQuestion> set in new[] { BinaryQuestions.Items, BinaryQuestions.Mood })
        {
            Assert.Equal(24, set.Count);
            // Any even number of the first ones is balanced.
            Assert.All(set.Index(), q => Assert.Equal(q.Index % 2 == 0, q.Item.Yes));
            Assert.Equal(set.Count, set.Select(q => q.Question).Distinct().Count());
        }
    }

    [Theory]
    [InlineData("{\"question\": \"Is ice cold?\", \"answer\": \"Yes\"}\n\n{\"question\": \"Is ice hot?\", \"answer\": \"no\"}\n", 2)]
    [InlineData("{\"question\": \"Is ice cold?\", \"answer\": \"maybe\"}", -1)]
    [InlineData("{\"question\": 3, \"answer\": \"yes\"}", -1)]
    [InlineData("no JSON at all", -1)]
    [InlineData("[]", -1)]
    [InlineData("", -1)]
    public void A_file_is_read_or_refused_with_its_line(string text, int count)
    {
        string path = Path.Combine(Path.GetTempPath(), $"repeng-questions-{Guid.NewGuid():N}.jsonl");
        File.WriteAllText(path, text);
        try
        {
            if (count > 0)
                Assert.Equal([true, false], BinaryQuestions.Load(path).Select(q => q.Yes));
            else
                Assert.Contains(path, Assert.Throws<UserErrorException>(() => BinaryQuestions.Load(path)).Message);
        }
        finally
        {
            File.Delete(path);
        }
    }
}
