using System.Text.Json;
using System.Text.Json.Nodes;
using System.Text.Json.Serialization;
using Repeng.Kernels;
using Repeng.Runtime.Formats;
using Repeng.Steering.Adapters.Peft;
using Repeng.Steering.Losses;
using Repeng.Steering.Models;

namespace Repeng.Steering.Training;

/// <summary>A pair of opposite personas.</summary>
public sealed record PersonaPair(string Positive, string Negative);

/// <summary>Everything that a run is made from; written as training_config.json, and all that --resume needs.</summary>
public sealed record RunSettings
{
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
    public string ToJson() => JsonSerializer.Serialize(this, SteeringJson.Default.RunSettings) + "\n";

    /// <summary>Reads training_config.json; what it leaves out has the values that stand here.</summary>
    public static RunSettings Load(string path)
    {
        JsonObject json = JsonFile.ReadObject(path).Json;
        FillIn(json);
        try
        {
            return json.Deserialize(SteeringJson.Default.RunSettings)!;
        }
        catch (JsonException e)
        {
            throw new UserErrorException($"{path}: no settings of a training run: {JsonFile.WithoutPosition(e)}", e);
        }
    }

    private static void FillIn(JsonObject json)
    {
        string[] required = [nameof(Model), nameof(Template), nameof(Personas), nameof(Suffixes), nameof(Train)];
        JsonObject defaults = JsonSerializer.SerializeToNode(new RunSettings { Model = "", Template = "", Personas = [], Suffixes = [], Train = new TrainConfig() }, SteeringJson.Default.RunSettings)!.AsObject();
        JsonNode train = defaults[nameof(Train)]!;
        foreach (string name in required)
            defaults.Remove(name);
        SteeringJson.FillIn(json, defaults);
        if (json[nameof(Train)] is not JsonObject given)
            return;
        SteeringJson.FillIn(given, train);
        if (given[nameof(TrainConfig.Peft)] is JsonObject peft)
            SteeringJson.FillIn(peft, JsonSerializer.SerializeToNode(new PeftSettings(), SteeringJson.Default.PeftSettings)!);
        if (given[nameof(TrainConfig.AntiPasto)] is JsonObject antiPasto)
            SteeringJson.FillIn(antiPasto, JsonSerializer.SerializeToNode(new AntiPastoLossConfig(), SteeringJson.Default.AntiPastoLossConfig)!);
    }
}
