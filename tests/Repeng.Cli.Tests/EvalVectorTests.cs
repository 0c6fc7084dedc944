using System.Text.Json.Nodes;
using Repeng.Steering.Evaluation;
using Repeng.Steering.Vectors;

namespace Repeng.Cli.Tests;

/// <summary>eval of control vectors and adapters side by side: calibration, usable range, baselines.</summary>
public sealed class EvalVectorTests : IDisposable
{
    private readonly Workshop _shop = new();

    public void Dispose() => _shop.Dispose();

    [Fact]
    public void Vectors_are_measured_side_by_side_and_a_scaled_one_is_the_same_at_a_scaled_coefficient()
    {
        string one = Vector("one.gguf", "mean_diff"), half = _shop.At("half.gguf"), output = _shop.At("out");
        Assert.Equal(ExitCodes.Ok, CliRun.Run("vector", "combine", $"0.5*{one}", "--output", half).Code);
        CliResult eval = CliRun.Run("eval", "--vector", one, half, "--coefficients", "-2", "-1", "1", "2", "--max_questions", "8", "--output_dir", output);
        Assert.True(eval.Code == ExitCodes.Ok, eval.Error);
        JsonArray rows = Json(output)["rows"]!.AsArray();
        Assert.Equal(["no steering", .. Enumerable.Repeat("one", 5), .. Enumerable.Repeat("half", 5)], rows.Select(r => (string)r!["method"]!));
        Assert.NotEqual(0, Value("one", 1, "change"));
        foreach (string what in new[] { "log_odds", "input_nll", "kl_p95" })
            Assert.Equal(Value("one", 1, what), Value("half", 2, what), 1e-5);
        Assert.Equal(0, Value("no steering", 0, "kl_p95"));
        Assert.True(Value("one", 2, "kl_p95") > Value("one", 1, "kl_p95"), eval.Out);
        foreach (string stem in new[] { "eval", "effect" })
        {
            Assert.Equal([0x89, (byte)'P', (byte)'N', (byte)'G'], File.ReadAllBytes(Path.Combine(output, $"{stem}.png"))[..4]);
            Assert.Contains("<svg", File.ReadAllText(Path.Combine(output, $"{stem}.svg")));
        }
        string[] compared = File.ReadAllLines(Path.Combine(output, "compared.csv"));
        Assert.Equal(3, compared.Length);
        Assert.All(compared, l => Assert.Equal(compared[0].Split(',').Length, l.Split(',').Length));
        // Half of what lies between both ends, paired by question.
        JsonNode pair = Json(output)["compared"]![0]!;
        double c = (double)pair["c_plus"]!;
        Assert.Equal(-c, (double)pair["c_minus"]!);
        Assert.Equal((Value("one", c, "log_odds") - Value("one", -c, "log_odds")) / 2, (double)pair["effect"]!, 1e-6);

        // Outputs that keep their length move less freely, but not as without.
        CliResult normalized = CliRun.Run("eval", "--vector", one, "--normalize", "--coefficients", "1", "--max_questions", "8", "--no-kl", "--output_dir", _shop.At("normal"));
        Assert.True(normalized.Code == ExitCodes.Ok, normalized.Error);
        JsonNode row = Json(_shop.At("normal"))["rows"]![1]!;
        Assert.NotEqual(Value("one", 1, "log_odds"), (double)row["log_odds"]!);
        Assert.Null(row["kl_p95"]);

        double Value(string method, double c, string what) => (double)rows.Single(r => (string)r!["method"]! == method && (double)r["coefficient"]! == c)![what]!;
    }

    [Fact]
    public void Calibration_meets_the_budget_and_is_kept_with_the_vector()
    {
        string file = Vector("v.gguf", "pca_diff"), output = _shop.At("out"), neutral = _shop.At("neutral.txt");
        File.WriteAllText(neutral, "the apple is made of wood.\n\nwhat is the color of the ball?\n");
        CliResult eval = CliRun.Run("eval", "--vector", file, "--baselines", "--seeds", "2", "--calibrate", "--kl_budget", "0.3", "--neutral", neutral, "--max_questions", "8", "--output_dir", output);
        Assert.True(eval.Code == ExitCodes.Ok, eval.Error);
        JsonObject json = Json(output), found = json["calibrations"]!["v"]!.AsObject();
        Assert.InRange((double)found["minus"]!["kl_p95"]!, 0.297, 0.303);
        Assert.InRange((double)found["plus"]!["kl_p95"]!, 0.297, 0.303);
        double plus = (double)found["plus"]!["coefficient"]!;
        Assert.True(plus > 0 && (double)found["minus"]!["coefficient"]! < 0);
        Assert.True((double)found["usable_range"]!["to"]! > 0);
        // Measured again in the table, at the calibrated coefficient.
        JsonArray rows = json["rows"]!.AsArray();
        Assert.InRange((double)rows.Single(r => (string)r!["method"]! == "v" && (float)(double)r["coefficient"]! == (float)plus)!["kl_p95"]!, 0.297, 0.303);
        string[] compared = [.. json["compared"]!.AsArray().Select(r => (string)r!["method"]!)];
        Assert.Equal(["v", "mean difference", "PCA", "random direction, seed 42", "random direction, seed 43", "random direction, all seeds"], compared[..6]);
        Assert.Equal(7, compared.Length);
        Assert.Equal("seeds", (string)json["compared"]![5]!["n_of"]!);
        Assert.Contains("prompt: trained truthful personas", eval.Out);
        Assert.Contains("at the coefficients of 0.3 nat of p95 KL", eval.Out);

        Assert.Contains("p95 KL on neutral texts is 0.3 nat at c = -", CliRun.Run("vector", "show", file).Out);
        Assert.Contains("calibrated on demo", CliRun.Run("generate", "--vector", file, "--prompt", "the ball is", "--max_new_tokens", "1").Error);
        ControlVectorFile.Write(file, ControlVectorFile.Read(file) * 2);
        Assert.Contains("made for other weights", CliRun.Run("vector", "show", file).Out);
        File.WriteAllText(Calibration.PathOf(file), "[]");
        Assert.Contains("is no calibration", CliRun.Run("vector", "show", file).Out);
    }

    [Fact]
    public void An_adapter_is_calibrated_and_stands_beside_a_vector_on_dilemmas()
    {
        string model = _shop.Model(), adapter = _shop.At("runs/a"), output = _shop.At("out");
        CliResult train = CliRun.Run(_shop.Train(model, "a", "--n_epochs", "1"));
        Assert.True(train.Code == ExitCodes.Ok, train.Error);
        CliResult vector = CliRun.Run("vector", "train", "--model", model, "--personas", "honest:dishonest", "--suffixes", "demo", "--max_pairs", "8", "--output", _shop.At("v.gguf"));
        Assert.True(vector.Code == ExitCodes.Ok, vector.Error);
        CliResult eval = CliRun.Run("eval", "--adapter", adapter, "--vector", _shop.At("v.gguf"), "--dilemmas", "own", "--calibrate", "--kl_budget", "0.01", "--output_dir", output);
        Assert.True(eval.Code == ExitCodes.Ok, eval.Error);
        JsonObject json = Json(output);
        Assert.Equal(["no steering", "adapter", "v", "mean difference", "PCA", "random direction", "prompt: honest", "prompt: dishonest"], json["rows"]!.AsArray().Select(r => (string)r!["method"]!).Distinct());
        Assert.Equal([adapter], json["adapters"]!.AsArray().Select(a => (string)a!));
        Assert.Equal([_shop.At("v.gguf")], json["vectors"]!.AsArray().Select(a => (string)a!));
        Assert.Contains("Steering F1", eval.Out);
        Assert.Contains("Methods compared", eval.Out);
        Assert.True(File.Exists(Path.Combine(adapter, Calibration.FileName)));
        Assert.Contains("calibrated on", CliRun.Run("inspect", adapter).Out);
    }

    [Fact]
    public void A_budget_that_is_out_of_reach_is_said_so_and_the_usual_coefficients_are_measured()
    {
        string file = Vector("PCA.gguf", "pca_diff"), neutral = _shop.At("neutral.json"), output = _shop.At("out");
        File.WriteAllText(neutral, "[\"the apple is made of wood.\"]");
        CliResult eval = CliRun.Run("eval", "--vector", file, "--baselines", "--calibrate", "--kl_budget", "1000", "--neutral", neutral, "--max_questions", "2", "--output_dir", output);
        Assert.True(eval.Code == ExitCodes.Ok, eval.Error);
        Assert.Contains("PCA, c > 0: p95 KL is only", eval.Error);
        Assert.Contains("never reached", eval.Out);
        Assert.DoesNotContain("at the coefficients of 1000", eval.Out);
        JsonObject json = Json(output), side = json["calibrations"]!["PCA"]!["plus"]!.AsObject();
        Assert.Equal("never reached", (string)side["outcome"]!);
        Assert.Null(side["coefficient"]);
        // The file has a baseline's name.
        Assert.Equal([-2.0, -1, 0, 1, 2], json["rows"]!.AsArray().Where(r => (string)r!["method"]! == "PCA").Select(r => (double)r!["coefficient"]!));
        Assert.Contains(json["rows"]!.AsArray(), r => (string)r!["method"]! == "PCA (baseline)");
        Assert.Contains("at c = none and none", CliRun.Run("vector", "show", file).Out);
    }

    [Fact]
    public void A_vector_of_another_model_and_one_that_is_given_twice_are_refused()
    {
        string file = Vector("v.gguf", "mean_diff"), model = _shop.Model();
        CliResult width = CliRun.Run("eval", "--model", model, "--vector", file);
        Assert.Equal(ExitCodes.UserError, width.Code);
        Assert.Contains("made for another model", width.Error);
        CliResult twice = CliRun.Run("eval", "--vector", file, file, "--max_questions", "2");
        Assert.Equal(ExitCodes.UserError, twice.Code);
        Assert.Contains("given twice", twice.Error);
        File.WriteAllText(_shop.At("none.txt"), "\n");
        CliResult empty = CliRun.Run("eval", "--vector", file, "--neutral", _shop.At("none.txt"));
        Assert.Equal(ExitCodes.UserError, empty.Code);
        Assert.Contains("no neutral text in it", empty.Error);
    }

    private string Vector(string name, string method)
    {
        CliResult train = CliRun.Run("vector", "train", "--method", method, "--max_pairs", "12", "--layer_range", "1:5", "--output", _shop.At(name));
        Assert.True(train.Code == ExitCodes.Ok, train.Error);
        return _shop.At(name);
    }

    private static JsonObject Json(string folder) => JsonNode.Parse(File.ReadAllText(Path.Combine(folder, "eval.json")))!.AsObject();
}
