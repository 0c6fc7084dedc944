using Repeng.Kernels.Quantised;

namespace Repeng.Runtime.Formats;

/// <summary>Types of ggml by their numbers in a GGUF file: those of <see cref="BlockType"/>, and its integers.</summary>
public sealed partial class StorageType
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

    private static void NumberGgmlTypes()
    {
        foreach (BlockType type in BlockType.All)
            Number(type.GgmlId, type.Name);
        Number(24, "I8");
        Number(25, "I16");
        Number(26, "I32");
        Number(27, "I64");
        Number(28, "F64");
    }

    private static void Number(uint id, string name)
    {
        s_byName[name].GgmlId = id;
        s_byGgmlId.Add(id, s_byName[name]);
    }
}
