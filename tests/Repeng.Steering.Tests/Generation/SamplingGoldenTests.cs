using System.Text.Json.Nodes;
using Repeng.Runtime.Formats;
using Repeng.Steering.Generation;
using Repeng.Testing;

namespace Repeng.Steering.Tests.Generation;

/// <summary>Every sampling setting against transformers' logits processors.</summary>
[Trait("Category", "Golden")]
[Trait("Golden", "sampling")]
public sealed class SamplingGoldenTests
{
    public static IEnumerable<TheoryDataRow<string>> Cases => File.Exists(Golden.Path("sampling", "cases.json"))
        ? Read().Select(c => new TheoryDataRow<string>((string)c!["case"]!))
        : [new TheoryDataRow<string>("(absent)")];

    [Theory]
    [MemberData(nameof(Cases))]
    public void Kept_tokens_scores_and_probabilities_are_those_of_transformers(string name)
    {
        Golden.Require("sampling", "cases.json");
        JsonObject entry = Read().Single(c => (string)c!["case"]! == name)!.AsObject();
        using ITensorSource tensors = SafetensorsFile.Open(Golden.Path("sampling", "cases.safetensors"));
        var settings = new SamplingSettings { Sample = true };
        foreach ((string key, JsonNode? value) in entry["settings"]!.AsObject())
            settings = key switch
            {
                "temperature" => settings with { Temperature = (float)value! },
                "top_k" => settings with { TopK = (int)value! },
                "top_p" => settings with { TopP = (float)value! },
                "min_p" => settings with { MinP = (float)value! },
                "repetition_penalty" => settings with { RepetitionPenalty = (float)value! },
                _ => throw new InvalidDataException($"setting {key} is not understood"),
            };
        settings.Validate();
        int rows = (int)tensors.Info($"{name}.logits").Shape[0], vocabulary = (int)tensors.Info($"{name}.logits").Shape[1];
        float[] logits = tensors.ReadF32($"{name}.logits"), scores = tensors.ReadF32($"{name}.scores"), probabilities = tensors.ReadF32($"{name}.probabilities");
        int[] ids = GoldenFiles.Ints(tensors, $"{name}.input_ids");
        long[] kept = tensors.ReadI64($"{name}.kept");
        var sampler = new Sampler(settings, vocabulary);
        int seen = ids.Length / rows;
        for (int r = 0; r < rows; r++)
        {
            Range row = (r * vocabulary)..((r + 1) * vocabulary);
            sampler.Process(logits.AsSpan(row), ids[(r * seen)..((r + 1) * seen)]);
            float[] p = [.. sampler.Probabilities().ToArray().Select(x => (float)x)];
            bool[] wanted = [.. kept[row].Select(k => k != 0)], actual = [.. sampler.Scores.ToArray().Select(s => !float.IsNegativeInfinity(s))];
            if (Tied(logits[row], wanted))
            {
                // Which of tied tokens stay depends on the sort: their number and the probabilities must agree.
                Assert.Equal(wanted.Count(k => k), actual.Count(k => k));
                Close.To(1e-6, p.Order().ToArray(), probabilities[row].Order().ToArray(), $"{name} probabilities of row {r}");
                continue;
            }
            Assert.Equal(wanted, actual);
            Close.To(1e-6, [.. sampler.Scores.ToArray().Select(s => float.IsNegativeInfinity(s) ? 0 : s)], scores[row], $"{name} scores of row {r}");
            Close.To(1e-6, p, probabilities[row], $"{name} probabilities of row {r}");
        }
    }

    // Whether a token stays and another with the same logit goes.
    private static bool Tied(float[] logits, bool[] kept)
    {
        HashSet<float> stay = [.. logits.Where((_, i) => kept[i])];
        return logits.Where((l, i) => !kept[i] && stay.Contains(l)).Any();
    }

    private static JsonArray Read() => JsonNode.Parse(File.ReadAllText(Golden.Path("sampling", "cases.json")))!.AsArray();
}
