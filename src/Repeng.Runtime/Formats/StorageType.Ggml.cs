namespace Repeng.Runtime.Formats;

/// <summary>Types of ggml by their numbers in a GGUF file, with block sizes as in ggml's ggml-common.h.</summary>
public sealed unsafe partial class StorageType
{
    private static readonly Dictionary<uint, StorageType> s_byGgmlId = [];

    /// <summary>Number of this type in a GGUF file; null for types that only safetensors knows.</summary>
    public uint? GgmlId { get; private set; }

    /// <summary>The type with this number in a GGUF file, or null where it is unknown or was removed from ggml.</summary>
    public static StorageType? FindGgml(uint id) => s_byGgmlId.GetValueOrDefault(id);

    /// <summary>Name of a type that was removed from ggml, else null.</summary>
    internal static string? RemovedGgmlName(uint id) => id switch
    {
        4 => "Q4_2",
        5 => "Q4_3",
        31 => "Q4_0_4_4",
        32 => "Q4_0_4_8",
        33 => "Q4_0_8_8",
        36 => "IQ4_NL_4_4",
        37 => "IQ4_NL_4_8",
        38 => "IQ4_NL_8_8",
        _ => null,
    };

    private static void AddGgmlTypes()
    {
        Ggml(0, s_byName["F32"]);
        Ggml(1, s_byName["F16"]);
        Ggml(2, Add("Q4_0", 32, 18, &Decode.Q4_0));
        Ggml(3, Add("Q4_1", 32, 20, &Decode.Q4_1));
        Ggml(6, Add("Q5_0", 32, 22, &Decode.Q5_0));
        Ggml(7, Add("Q5_1", 32, 24, &Decode.Q5_1));
        Ggml(8, Add("Q8_0", 32, 34, &Decode.Q8_0));
        Ggml(9, Add("Q8_1", 32, 36, null));
        Ggml(10, Add("Q2_K", 256, 84, null));
        Ggml(11, Add("Q3_K", 256, 110, null));
        Ggml(12, Add("Q4_K", 256, 144, null));
        Ggml(13, Add("Q5_K", 256, 176, null));
        Ggml(14, Add("Q6_K", 256, 210, null));
        Ggml(15, Add("Q8_K", 256, 292, null));
        Ggml(16, Add("IQ2_XXS", 256, 66, null));
        Ggml(17, Add("IQ2_XS", 256, 74, null));
        Ggml(18, Add("IQ3_XXS", 256, 98, null));
        Ggml(19, Add("IQ1_S", 256, 50, null));
        Ggml(20, Add("IQ4_NL", 32, 18, null));
        Ggml(21, Add("IQ3_S", 256, 110, null));
        Ggml(22, Add("IQ2_S", 256, 82, null));
        Ggml(23, Add("IQ4_XS", 256, 136, null));
        Ggml(24, s_byName["I8"]);
        Ggml(25, s_byName["I16"]);
        Ggml(26, s_byName["I32"]);
        Ggml(27, s_byName["I64"]);
        Ggml(28, s_byName["F64"]);
        Ggml(29, Add("IQ1_M", 256, 56, null));
        Ggml(30, s_byName["BF16"]);
        Ggml(34, Add("TQ1_0", 256, 54, null));
        Ggml(35, Add("TQ2_0", 256, 66, null));
        Ggml(39, Add("MXFP4", 32, 17, null));
        Ggml(40, Add("NVFP4", 64, 36, null));
        Ggml(41, Add("Q1_0", 128, 18, null));
        Ggml(42, Add("Q2_0", 64, 18, null));
    }

    private static void Ggml(uint id, StorageType type)
    {
        type.GgmlId = id;
        s_byGgmlId.Add(id, type);
    }
}
