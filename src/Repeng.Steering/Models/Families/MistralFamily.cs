namespace Repeng.Steering.Models;

/// <summary>Mistral: Llama with a window in every layer of the first version.</summary>
internal static class MistralFamily
{
    public static ModelConfig Describe(ConfigReader c) => LlamaFamily.Describe(c) with
    {
        Windows = c.Windows(c.OptionalInt("sliding_window") ?? 0, _ => true),
    };
}
