using Repeng.Kernels;

namespace Repeng.Steering.Models;

/// <summary>What descriptions of families read from config.json in the same way.</summary>
internal static class FamilyReading
{
    /// <summary>Size of a head: head_dim, else the width over the heads.</summary>
    public static int HeadDim(this ConfigReader c) => c.OptionalInt("head_dim") is > 0 and int d ? d : c.Size("hidden_size") / c.Size("num_attention_heads");

    /// <summary>Rotated elements of a head: partial_rotary_factor of it.</summary>
    public static int RotaryDim(this ConfigReader c, double factor)
    {
        double f = c.OptionalDouble("partial_rotary_factor") ?? c.Object("rope_parameters")?.OptionalDouble("partial_rotary_factor") ?? factor;
        return (int)(c.HeadDim() * f);
    }

    /// <summary>An activation by the name that transformers gives it.</summary>
    public static UnaryOp Activation(this ConfigReader c, string name) => name switch
    {
        "silu" or "swish" => UnaryOp.Silu,
        "gelu" => UnaryOp.Gelu,
        "gelu_new" or "gelu_pytorch_tanh" or "gelu_fast" => UnaryOp.GeluTanh,
        "relu" => UnaryOp.Relu,
        _ => throw new UserErrorException($"{c.Source}: activation {name} is not known; known: silu, gelu, gelu_new, gelu_pytorch_tanh, relu"),
    };

    /// <summary>The window of each layer (0 for none): layer_types where it is given, else by number.</summary>
    public static int[] Windows(this ConfigReader c, int window, Func<int, bool> isLocal)
    {
        int layers = c.Size("num_hidden_layers", limit: 4096);
        string[]? types = c.OptionalStrings("layer_types");
        if (types is not null && types.Length != layers)
            throw new UserErrorException($"{c.Source}: layer_types has {types.Length} entries for {layers} layers");
        var windows = new int[layers];
        for (int i = 0; i < layers; i++)
        {
            bool local = types is null ? isLocal(i) : types[i] switch
            {
                "sliding_attention" => true,
                "full_attention" => false,
                _ => throw new UserErrorException($"{c.Source}: layer type {types[i]} of layer {i} is not known"),
            };
            windows[i] = local ? window : 0;
        }
        return windows;
    }

    /// <summary>Rotary embedding of layers that see everything and, where it differs, of those with a window: transformers 4 writes rope_theta and rope_scaling, transformers 5 rope_parameters (for Gemma 3 one a layer type).</summary>
    public static (RopeSpec Global, RopeSpec? Local) Ropes(this ConfigReader c, params string[] thetaKeys)
    {
        string[] keys = thetaKeys is [] ? ["rope_theta"] : thetaKeys;
        ConfigReader? parameters = c.Object("rope_parameters");
        if (parameters?.Object("full_attention") is { } full)
            return (Spec(full), parameters.Object("sliding_attention") is { } local ? Spec(local) : null);
        if (parameters is not null)
            return (Spec(parameters), null);
        double theta = Theta();
        return (new RopeSpec(theta, c.Object("rope_scaling") is { } s ? Scaling(c, s) : null), null);

        RopeSpec Spec(ConfigReader p) => new(p.Double("rope_theta", Theta()), Scaling(c, p));

        double Theta() => keys.Select(c.OptionalDouble).FirstOrDefault(t => t is not null) ?? 10000;
    }

    /// <summary>True for every layer.</summary>
    public static bool[] EveryLayer(this ConfigReader c) => [.. Enumerable.Repeat(true, c.Size("num_hidden_layers", limit: 4096))];

    /// <summary>A number above 0.</summary>
    public static double Positive(this ConfigReader c, string key, double fallback) =>
        c.Double(key, fallback) is > 0 and var v ? v : throw new UserErrorException($"{c.Source}: {key} = {c.Double(key, fallback)} must be above 0");

    private static RopeScaling? Scaling(ConfigReader c, ConfigReader s)
    {
        string type = s.OptionalString("rope_type") ?? s.OptionalString("type") ?? "default";
        if (type == "default")
            return null;
        int? original = s.OptionalInt("original_max_position_embeddings") ?? c.OptionalInt("original_max_position_embeddings");
        RopeScalingType kind = RopeScaling.ParseType(type);
        if (kind == RopeScalingType.Default)
            return null;
        return new RopeScaling
        {
            Type = kind,
            Factor = s.OptionalDouble("factor") ?? 0,
            LowFreqFactor = s.OptionalDouble("low_freq_factor") ?? 0,
            HighFreqFactor = s.OptionalDouble("high_freq_factor") ?? 0,
            OriginalMaxPosition = original ?? 0,
            BetaFast = s.OptionalDouble("beta_fast") ?? 0,
            BetaSlow = s.OptionalDouble("beta_slow") ?? 0,
            AttentionFactor = s.OptionalDouble("attention_factor"),
            Mscale = s.OptionalDouble("mscale"),
            MscaleAllDim = s.OptionalDouble("mscale_all_dim"),
            Truncate = s.Bool("truncate", true),
            ShortFactors = s.OptionalDoubles("short_factor"),
            LongFactors = s.OptionalDoubles("long_factor"),
        };
    }
}
