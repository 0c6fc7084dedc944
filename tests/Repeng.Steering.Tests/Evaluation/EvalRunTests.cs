using Repeng.Kernels;
using Repeng.Runtime;
using Repeng.Steering.Data;
using Repeng.Steering.Evaluation;
using Repeng.Steering.Models;
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
        TokenBatch pair = TokenBatch.Pad([[1, 2, 3], [1, 4, 3]], 0);
        using BlockVectors mean = BlockVectors.MeanDifference(model, [0, last], [pair]);
        using BlockVectors random = BlockVectors.RandomLike(mean, 7);
        foreach ((int block, Tensor v) in mean.Directions)
            Assert.Equal(Norm(v), Norm(random.Directions[block]), 1e-4 * Norm(v));

        ChoiceItem[] items = [new("a, b", [1, 2], [[3]], [[4], [5]]), new("c", [5, 6, 7], [[8]], [[9]])];
        EvalRun run = EvalRun.Run(model,
        [
            new EvalMethod("mean", new Repeng.Steering.Generation.Steering(null, mean.Directions), [-1, 1], items),
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
    public void Methods_with_other_questions_are_refused()
    {
        using Device device = Device.Cpu();
        using DecoderModel model = GoldenFiles.Load(device, Path.Combine(Golden.Require("adapter"), "model"));
        ChoiceItem item = new("a", [1, 2], [[3]], [[4]]);
        Assert.Throws<UserErrorException>(() => EvalRun.Run(model, [new EvalMethod("x", Repeng.Steering.Generation.Steering.None, [0], [])]));
        Assert.Throws<ArgumentException>(() => EvalRun.Run(model, [new EvalMethod("x", Repeng.Steering.Generation.Steering.None, [0], [item]), new EvalMethod("y", Repeng.Steering.Generation.Steering.None, [0], [item with { Key = "b" }])]));
    }

    private static double Norm(Tensor t) => Math.Sqrt(t.ToArray().Sum(v => (double)v * v));
}

/// <summary>The binary set and files with more of it.</summary>
public sealed class BinaryQuestionsTests
{
    [Fact]
    public void Half_of_the_built_in_answers_are_yes_and_no_question_comes_twice()
    {
        Assert.Equal(BinaryQuestions.Items.Count, 2 * BinaryQuestions.Items.Count(q => q.Yes));
        Assert.Equal(BinaryQuestions.Items.Count, BinaryQuestions.Items.Select(q => q.Question).Distinct().Count());
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
