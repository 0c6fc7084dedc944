namespace Repeng.Steering.Models;

/// <summary>Phi-3 and Phi-4: one projection for q, k, v, one for gate and up.</summary>
internal static class Phi3Family
{
    public static ModelConfig Describe(ConfigReader c) => LlamaFamily.Describe(c) with
    {
        Names = new BlockNames { FusedQkv = "qkv_proj", FusedGateUp = "gate_up_proj" },
        Windows = c.Windows(c.OptionalInt("sliding_window") ?? 0, _ => true),
    };
}
