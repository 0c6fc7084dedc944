using System.Text.Json.Nodes;
using Repeng.Runtime.Formats;

namespace Repeng.Cli.Tests;

/// <summary>eval, forward and inspect on the demo model, as a person calls them.</summary>
public sealed class MeasuringVerbsTests : IDisposable
{
    private readonly string _folder = Directory.CreateTempSubdirectory("repeng-verbs").FullName;

    /// <inheritdoc/>
    public void Dispose() => Directory.Delete(_folder, recursive: true);

    [Fact]
    public void Eval_of_the_model_alone_writes_table_files_and_plot()
    {
        string output = Path.Combine(_folder, "eval");
        (int code, string text, _) = Call("eval", "--model", "demo", "--max-questions", "6", "--output_dir", output);
        Assert.Equal(ExitCodes.Ok, code);
        Assert.Contains("model alone", text);
        Assert.Equal(1 + 6, File.ReadLines(Path.Combine(output, "eval_results.csv")).Count());
        Assert.Equal(1 + 1, File.ReadLines(Path.Combine(output, "eval_summary.csv")).Count());
        JsonNode row = JsonNode.Parse(File.ReadAllText(Path.Combine(output, "eval.json")))!["rows"]![0]!;
        Assert.Equal(6, (int)row["n"]!);
        Assert.InRange((double)row["choice_mass"]!, 0, 1);
        Assert.InRange((double)row["input_nll"]!, 0.01, 20);
        Assert.Equal(0, (double)row["input_nll_rise"]!);
        Assert.Equal([0x89, (byte)'P', (byte)'N', (byte)'G'], File.ReadAllBytes(Path.Combine(output, "eval.png"))[..4]);
    }

    [Fact]
    public void Forward_of_a_text_writes_what_is_asked_for()
    {
        string output = Path.Combine(_folder, "forward.safetensors");
        (int code, _, _) = Call("forward", "--text", "what is the color of the ball?", "--output", output, "--hidden-states", "--modules", @".*\.0\..*o_proj", "--gradients");
        Assert.Equal(ExitCodes.Ok, code);
        using SafetensorsFile file = SafetensorsFile.Open(output);
        long length = file.Info("input_ids").Shape[1];
        Assert.Equal([1, length - 1], file.Info("label_logprob").Shape);
        Assert.Equal(file.ReadF32("label_logprob").Average(), -file.ReadF32("loss")[0], 1e-4);
        Assert.Contains("hidden_states.0", file.Names);
        Assert.Single(file.Names, n => n.EndsWith(".o_proj", StringComparison.Ordinal));
        string gradient = file.Names.First(n => n.StartsWith("grad.", StringComparison.Ordinal));
        Assert.Contains(file.ReadF32(gradient), x => x != 0);
    }

    [Fact]
    public void Inspect_tells_a_model_from_a_tensor_file()
    {
        (int code, string text, _) = Call("inspect", "demo");
        Assert.Equal(ExitCodes.Ok, code);
        Assert.Contains("chat template", text);
        string file = Path.Combine(_folder, "x.safetensors");
        new SafetensorsWriter().Add("some.tensor", [2, 3], new float[6]).SetMetadata("made", "here").Write(file);
        (code, text, _) = Call("inspect", file, "--tensors");
        Assert.Equal(ExitCodes.Ok, code);
        Assert.Contains("some.tensor  F32  [2, 3]", text);
        Assert.Contains("metadata made: here", text);
    }

    [Theory]
    [InlineData("--coefficients", "eval", "--coefficients", "2")]
    [InlineData("--set binary", "eval", "--set", "binary")]
    [InlineData("--questions", "eval", "--questions", "q.jsonl")]
    [InlineData("--max_questions", "eval", "--max_questions", "0")]
    [InlineData("--seeds", "eval", "--seeds", "0")]
    [InlineData("--set binary", "eval", "--generate_answers")]
    [InlineData("--temperature", "eval", "--temperature", "1")]
    [InlineData("--vector FILE", "eval", "--normalize")]
    [InlineData("no such file", "eval", "--vector", "none.gguf")]
    [InlineData("--baselines", "eval", "--calibrate")]
    [InlineData("leave --no-kl out", "eval", "--baselines", "--calibrate", "--no-kl")]
    [InlineData("--kl_budget 0 must be above 0", "eval", "--baselines", "--calibrate", "--kl_budget", "0")]
    [InlineData("add --calibrate", "eval", "--baselines", "--kl_budget", "1")]
    [InlineData("neutral text file none.txt", "eval", "--neutral", "none.txt")]
    [InlineData("leave one out", "eval", "--neutral", "none.txt", "--no-kl")]
    [InlineData("leave --no-baselines out", "eval", "--no-baselines", "--personas", "a:b")]
    [InlineData("--set truth", "eval", "--dilemmas", "own", "--set", "truth")]
    [InlineData("--dilemmas FILE", "eval", "--target_value", "care")]
    [InlineData("--dilemmas: the demo model", "eval", "--dilemmas", "own")]
    [InlineData("there are truthfulness (16)", "eval", "--model", "other", "--dilemmas", "own", "--target_value", "honesty")]
    [InlineData("no such file", "eval", "--model", "other", "--dilemmas", "none.jsonl")]
    [InlineData("--input", "convert-dilemmas", "--output", "x.jsonl")]
    [InlineData("no such file", "convert-dilemmas", "--input", "none.csv", "--output", "x.jsonl")]
    [InlineData("--output", "forward", "--text", "a")]
    [InlineData("--input", "forward", "--output", "x.safetensors")]
    [InlineData("--modules", "forward", "--text", "a", "--output", "x.safetensors", "--modules", "(")]
    [InlineData("no such folder", "inspect", "no-such-path")]
    public void What_is_wrong_is_said_in_one_line(string said, params string[] args)
    {
        (int code, string output, string status) = Call(args);
        Assert.Equal(ExitCodes.UserError, code);
        Assert.Empty(output);
        string[] errors = [.. status.Split('\n').Where(l => l.StartsWith("error:", StringComparison.Ordinal))];
        Assert.Contains(said, Assert.Single(errors));
    }

    [Fact]
    public void Public_dilemmas_are_converted_and_the_wanted_value_comes_first()
    {
        string input = Path.Combine(_folder, "daily.csv"), output = Path.Combine(_folder, "d.jsonl");
        File.WriteAllText(input, "dilemma_idx,action_type,dilemma_situation,action,values_aggregated\n1,to_do,s,a,['care']\n1,not_to_do,s,b,['duty']\n2,to_do,t,c,['truthfulness']\n2,not_to_do,t,d,['care']\n");
        (int code, string text, string status) = Call("convert-dilemmas", "--input", input, "--output", output, "--first_value", "Truthfulness");
        Assert.True(code == ExitCodes.Ok, status);
        Assert.Contains("4 rows; 3 values: care (4), duty (2), truthfulness (2)", text);
        Assert.Equal(["2/to_do", "2/not_to_do", "1/to_do", "1/not_to_do"], Repeng.Steering.Data.Dilemmas.Load(output).Select(d => d.Id));
        Assert.Contains("there are care", Call("convert-dilemmas", "--input", input, "--output", output, "--first_value", "joy").Status);
    }

    private static (int Code, string Output, string Status) Call(params string[] args)
    {
        using StringWriter output = new(), status = new();
        int code = CliApp.Run(args, new Session(TextReader.Null, output, status));
        return (code, output.ToString(), status.ToString());
    }
}
