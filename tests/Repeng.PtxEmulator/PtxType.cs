namespace Repeng.PtxEmulator;

/// <summary>The fundamental and the packed types of PTX (PTX ISA, 5.2).</summary>
internal enum PtxType
{
    None,
    Pred,
    B8,
    B16,
    B32,
    B64,
    B128,
    U8,
    U16,
    U32,
    U64,
    S8,
    S16,
    S32,
    S64,
    F16,
    F16x2,
    BF16,
    BF16x2,
    TF32,
    F32,
    F64,
    S4,
    U4,
    B1,
    U16x2,
    S16x2,
}

internal static class PtxTypes
{
    private static readonly Dictionary<string, PtxType> s_byName = Enum.GetValues<PtxType>().Where(t => t != PtxType.None).ToDictionary(t => t.ToString().ToLowerInvariant(), StringComparer.Ordinal);

    /// <summary>The type of a name without its dot, or <see cref="PtxType.None"/>.</summary>
    public static PtxType Parse(string name) => s_byName.GetValueOrDefault(name);

    /// <summary>Bytes of a value in memory; 0 for predicates and types that are only packed.</summary>
    public static int Size(this PtxType type) => type switch
    {
        PtxType.B8 or PtxType.U8 or PtxType.S8 => 1,
        PtxType.B16 or PtxType.U16 or PtxType.S16 or PtxType.F16 or PtxType.BF16 => 2,
        PtxType.B32 or PtxType.U32 or PtxType.S32 or PtxType.F32 or PtxType.F16x2 or PtxType.BF16x2 or PtxType.TF32 or PtxType.U16x2 or PtxType.S16x2 => 4,
        PtxType.B64 or PtxType.U64 or PtxType.S64 or PtxType.F64 => 8,
        PtxType.B128 => 16,
        _ => 0,
    };

    public static bool IsSigned(this PtxType type) => type is PtxType.S8 or PtxType.S16 or PtxType.S32 or PtxType.S64 or PtxType.S16x2;

    public static bool IsInteger(this PtxType type) => type is >= PtxType.U8 and <= PtxType.S64;

    public static bool IsBits(this PtxType type) => type is >= PtxType.B8 and <= PtxType.B128;

    public static bool IsFloat(this PtxType type) => type is PtxType.F16 or PtxType.F16x2 or PtxType.BF16 or PtxType.BF16x2 or PtxType.TF32 or PtxType.F32 or PtxType.F64;

    /// <summary>Two 16-bit values in one 32-bit register.</summary>
    public static bool IsPacked(this PtxType type) => type is PtxType.F16x2 or PtxType.BF16x2 or PtxType.U16x2 or PtxType.S16x2;

    /// <summary>The type of a half of a packed type, else the type itself.</summary>
    public static PtxType Half(this PtxType type) => type switch
    {
        PtxType.F16x2 => PtxType.F16,
        PtxType.BF16x2 => PtxType.BF16,
        PtxType.U16x2 => PtxType.U16,
        PtxType.S16x2 => PtxType.S16,
        _ => type,
    };
}
