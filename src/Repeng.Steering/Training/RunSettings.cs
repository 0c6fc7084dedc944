using System.Text.Json;
using System.Text.Json.Serialization;
using Repeng.Kernels;
using Repeng.Runtime.Formats;
using Repeng.Steering.Models;

namespace Repeng.Steering.Training;

/// <summary>A pair of opposite personas.</summary>
public sealed record PersonaPair(string Positive, string Negative);

/// <summary>Everything that a run is made from; written as training_config.json, and all that --resume needs.</summary>
public sealed record RunSettings
{
    private static readonly JsonSerializerOptions s_json = new() { WriteIndented = true, IndentSize = 4, Converters = { new JsonStringEnumConverter() }, NumberHandling = JsonNumberHandling.AllowNamedFloatingPointLiterals };

    /// <summary>"demo", a folder or a .gguf file.</summary>
    public required string Model { get; init; }

    /// <summary>How weights are held.</summary>
    public WeightType Weights { get; init; }

    /// <summary>What plain linear weights are quantised to at loading; null for none.</summary>
    public Quantisation? Quantise { get; init; }

    /// <summary>Both together.</summary>
    [JsonIgnore]
    public WeightStorage Storage => new(Weights, Quantise);

    /// <summary>First part of the run's folder name; upstream's adapter name.</summary>
    public string DatasetName { get; init; } = "honest";

    /// <summary>User turn with {persona}.</summary>
    public required string Template { get; init; }

    /// <summary>Persona pairs.</summary>
    public required IReadOnlyList<PersonaPair> Personas { get; init; }

    /// <summary>Begun answers.</summary>
    public required IReadOnlyList<string> Suffixes { get; init; }

    /// <summary>Where a thinking model's suffixes stand; null for the answer's begin, as the template has it.</summary>
    public ThinkingTexts? Thinking { get; init; }

    /// <summary>Pairs at most, chosen by the seed; 0 takes all.</summary>
    public int MaxPairs { get; init; }

    /// <summary>Tokens of a text at most.</summary>
    public int MaxTokens { get; init; } = 512;

    /// <summary>Questions of the evaluation after training, 0 for none; null for all of them, also where an older file does not say.</summary>
    public int? EvalQuestions { get; init; }

    /// <summary>Longest prompt of that evaluation in tokens; null for the default.</summary>
    public int? EvalMaxTokens { get; init; }

    /// <summary>Adapter, loss and schedule.</summary>
    public required TrainConfig Train { get; init; }

    /// <summary>As JSON.</summary>
    public string ToJson() => JsonSerializer.Serialize(this, s_json) + "\n";

    /// <summary>Reads training_config.json.</summary>
    public static RunSettings Load(string path)
    {
        string text = JsonFile.ReadText(path);
        try
        {
            return JsonSerializer.Deserialize<RunSettings>(text, s_json) ?? throw new UserErrorException($"{path}: empty");
        }
        catch (JsonException e)
        {
            throw new UserErrorException($"{path}: no settings of a training run: {JsonFile.Invalid("the file", e).Message}", e);
        }
    }
}
