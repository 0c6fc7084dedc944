using System.Text.Json.Nodes;

namespace Repeng.Steering.Adapters.Peft;

/// <summary>adapter_config.json of new adapters, with the fields that PEFT reads.</summary>
internal static class PeftConfigs
{
    public static JsonObject Lora(int rank, double alpha, JsonNode targets, string? baseModel)
    {
        JsonObject json = Common("LORA", targets, baseModel);
        (json["r"], json["lora_alpha"], json["lora_dropout"], json["bias"]) = (rank, alpha, 0.0, "none");
        (json["use_rslora"], json["use_dora"], json["lora_bias"], json["fan_in_fan_out"], json["init_lora_weights"]) = (false, false, false, false, true);
        (json["rank_pattern"], json["alpha_pattern"], json["modules_to_save"]) = (new JsonObject(), new JsonObject(), null);
        return json;
    }

    public static JsonObject Common(string type, JsonNode targets, string? baseModel) => new()
    {
        ["peft_type"] = type,
        ["task_type"] = "CAUSAL_LM",
        ["base_model_name_or_path"] = baseModel,
        ["inference_mode"] = true,
        ["target_modules"] = targets,
    };
}
