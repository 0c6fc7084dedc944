namespace Repeng.PtxEmulator.Ir;

/// <summary>The shapes of mma.sync that are known, and how their fragments lie in registers (PTX ISA, 9.7.14).</summary>
internal static class MmaShape
{
    /// <summary>Bits of an element of A and B.</summary>
    public static int ElementBits(PtxType type) => type switch
    {
        PtxType.F64 => 64,
        PtxType.TF32 => 32,
        PtxType.F16 or PtxType.BF16 => 16,
        PtxType.S8 or PtxType.U8 => 8,
        PtxType.S4 or PtxType.U4 => 4,
        _ => 0,
    };

    /// <summary>Registers a lane of A, B, C and D, or null where the combination is not known.</summary>
    public static (int A, int B, int C, int D)? Registers(Instruction i)
    {
        int bits = ElementBits(i.SourceType);
        bool integer = bits is 4 or 8;
        bool known = (i.Shape, i.SourceType) switch
        {
            ((16, 8, 8), PtxType.F16 or PtxType.BF16 or PtxType.TF32) => true,
            ((16, 8, 4), PtxType.TF32) => true,
            ((16, 8, 16), PtxType.F16 or PtxType.BF16 or PtxType.S8 or PtxType.U8) => true,
            ((16, 8, 32), PtxType.S8 or PtxType.U8 or PtxType.S4 or PtxType.U4) => true,
            ((16, 8, 64), PtxType.S4 or PtxType.U4) => true,
            ((8, 8, 16), PtxType.S8 or PtxType.U8) => true,
            ((8, 8, 4), PtxType.F64) => true,
            _ => false,
        };
        if (!known || bits != ElementBits(i.SecondType) || (!integer && i.SourceType != i.SecondType) || (i.Saturate && !integer))
            return null;
        bool accumulators = i.SourceType switch
        {
            PtxType.F64 => i is { Type: PtxType.F64, ThirdType: PtxType.F64 },
            PtxType.F16 => i.Type is PtxType.F16 or PtxType.F32 && i.ThirdType is PtxType.F16 or PtxType.F32,
            PtxType.BF16 or PtxType.TF32 => i is { Type: PtxType.F32, ThirdType: PtxType.F32 },
            _ => i is { Type: PtxType.S32, ThirdType: PtxType.S32 },
        };
        if (!accumulators)
            return null;
        int unit = bits == 64 ? 64 : 32;
        int a = i.Shape.M * i.Shape.K * bits / 32 / unit, b = i.Shape.N * i.Shape.K * bits / 32 / unit;
        int values = i.Shape.M * i.Shape.N / 32;
        return (a, b, i.ThirdType == PtxType.F16 ? values / 2 : values, i.Type == PtxType.F16 ? values / 2 : values);
    }
}
