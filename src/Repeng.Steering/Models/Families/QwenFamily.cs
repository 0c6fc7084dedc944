namespace Repeng.Steering.Models;

/// <summary>Qwen: 2 has biases on q, k and v, 3 a norm of each query and key head instead.</summary>
internal static class QwenFamily
{
    public static ModelConfig Qwen2(ConfigReader c) => LlamaFamily.Describe(c) with { QkvBias = true, OutputBias = false, Windows = Windows(c) };

    public static ModelConfig Qwen3(ConfigReader c) => LlamaFamily.Describe(c) with { QkNorm = QkNormKind.PerHead, Windows = Windows(c) };

    private static int[] Windows(ConfigReader c)
    {
        int window = c.Bool("use_sliding_window", false) ? c.OptionalInt("sliding_window") ?? 0 : 0;
        int full = c.Int("max_window_layers");
        return c.Windows(window, i => i >= full);
    }
}
