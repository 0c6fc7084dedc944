using System.Text.Json;
using System.Text.Json.Nodes;
using System.Text.Json.Serialization;
using Repeng.Steering.Data;
using Repeng.Steering.Demo;
using Repeng.Steering.Losses;
using Repeng.Steering.Training;
using Repeng.Steering.Adapters.Peft;

namespace Repeng.Steering;

/// <summary>Generated code for the records that are written as JSON: nothing is found by reflection, so that programs can be trimmed and compiled ahead of time.</summary>
[JsonSourceGenerationOptions(WriteIndented = true, IndentSize = 4, UseStringEnumConverter = true, NumberHandling = JsonNumberHandling.AllowNamedFloatingPointLiterals, RespectNullableAnnotations = true, RespectRequiredConstructorParameters = true)]
[JsonSerializable(typeof(RunSettings))]
[JsonSerializable(typeof(PeftSettings))]
[JsonSerializable(typeof(AntiPastoLossConfig))]
[JsonSerializable(typeof(TruthItem[]))]
[JsonSerializable(typeof(List<string>))]
internal sealed partial class SteeringJson : JsonSerializerContext
{
    /// <summary>
    /// Puts what the file leaves out from the defaults, objects within objects too. Generated code needs it: it sets every init-only property,
    /// those that the file does not name to zero or null in the place of what the record says.
    /// </summary>
    public static void FillIn(JsonObject file, JsonNode defaults)
    {
        foreach ((string name, JsonNode? value) in defaults.AsObject())
            if (!file.TryGetPropertyValue(name, out JsonNode? given))
                file[name] = value?.DeepClone();
            else if (given is JsonObject inner && value is JsonObject)
                FillIn(inner, value);
    }
}

/// <summary>The recipe of the demo model as JSON, as it stands in the model's README.</summary>
[JsonSourceGenerationOptions(WriteIndented = true)]
[JsonSerializable(typeof(DemoModelRecipe))]
public sealed partial class DemoModelJson : JsonSerializerContext;
