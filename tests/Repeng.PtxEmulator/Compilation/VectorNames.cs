using Repeng.PtxEmulator.Ir;
using Repeng.PtxEmulator.Syntax;

namespace Repeng.PtxEmulator.Compilation;

/// <summary>Which method of <see cref="VectorOps"/> does an instruction; null where the interpreter has to.</summary>
internal static class VectorNames
{
    public static string? Of(Instruction i)
    {
        if (i.Saturate || i.Relu || i.XorSignAbs || i.NanWins)
            return null;
        int bits = i.Type.Size() * 8;
        string sign = i.Type.IsSigned() ? "s" : "u", ftz = i.Ftz ? "ftz_" : "";
        bool nearest = i.Rounding is Rounding.Nearest or Rounding.None;
        bool integer = !i.Type.IsFloat() && !i.Type.IsPacked() && i.Type != PtxType.Pred && bits >= 16;
        bool plainFloat = i.Type is PtxType.F32 || (i.Type is PtxType.F64 && !i.Ftz);
        string type = i.Type == PtxType.F32 ? "f32" : "f64";
        switch (i.Op)
        {
            case Op.Add or Op.Sub:
                string root = i.Op == Op.Add ? "add" : "sub";
                return integer ? $"{root}_{bits}" : plainFloat && nearest ? $"{root}_{ftz}{type}" : null;
            case Op.Mul:
                if (!integer)
                    return plainFloat && nearest ? $"mul_{ftz}{type}" : null;
                return i.Part switch { Part.Lo => $"mul_lo_{bits}", Part.Wide when bits == 32 => $"mul_wide_{sign}32", Part.Hi when bits == 32 => $"mul_hi_{sign}32", _ => null };
            case Op.Mad:
                return i.Part switch { Part.Lo => $"mad_lo_{bits}", Part.Wide when bits == 32 => $"mad_wide_{sign}32", _ => null };
            case Op.Fma:
                return plainFloat && nearest ? $"fma_{ftz}{type}" : null;
            case Op.Div:
                return integer ? bits == 32 ? $"div_{sign}32" : null : plainFloat && nearest ? $"div_{ftz}{type}" : null;
            case Op.Rem:
                return bits == 32 ? $"rem_{sign}32" : null;
            case Op.Min or Op.Max:
                string which = i.Op == Op.Min ? "min" : "max";
                return integer ? bits >= 32 ? $"{which}_{sign}{bits}" : null : i.Type == PtxType.F32 && !i.Ftz ? $"{which}_f32" : null;
            case Op.Abs:
                return integer ? bits >= 32 ? $"abs_s{bits}" : null : i.Type == PtxType.F32 && !i.Ftz ? "abs_f32" : null;
            case Op.Neg:
                return integer ? $"neg_{bits}" : plainFloat && !i.Ftz ? $"neg_{type}" : null;
            case Op.Sqrt or Op.Rcp:
                return i.Type == PtxType.F32 && nearest ? $"{i.Op.ToString().ToLowerInvariant()}_{ftz}f32" : null;
            case Op.Rsqrt or Op.Lg2 or Op.Ex2 or Op.Sin or Op.Cos or Op.Tanh:
                return i.Type == PtxType.F32 ? $"{i.Op.ToString().ToLowerInvariant()}_{ftz}f32" : null;
            case Op.And or Op.Or or Op.Xor or Op.Not or Op.Mov:
                string logic = i.Op.ToString().ToLowerInvariant();
                return i.Type == PtxType.Pred ? $"{logic}_pred" : $"{logic}_{Math.Max(16, bits)}";
            case Op.Shl:
                return i.Sources[1].Kind == ValueKind.Immediate ? $"shl_const_{bits}" : $"shl_{bits}";
            case Op.Shr:
                return i.Sources[1].Kind == ValueKind.Immediate ? $"shr_const_{sign}{bits}" : $"shr_{sign}{bits}";
            case Op.Shf:
                return i.Sources[2].Kind == ValueKind.Immediate ? i.Flag ? "shf_left_const" : "shf_right_const" : null;
            case Op.Lop3:
                return "lop3";
            case Op.Bfe:
                return i.Type == PtxType.U32 && i.Sources[1] is { Kind: ValueKind.Immediate, Bits: < 256 } && i.Sources[2] is { Kind: ValueKind.Immediate, Bits: < 256 } ? "bfe_const_u32" : null;
            case Op.Popc or Op.Clz:
                return bits == 32 ? $"{i.Op.ToString().ToLowerInvariant()}_32" : null;
            case Op.Selp:
                return $"selp_{Math.Max(16, bits)}";
            case Op.Setp:
                return Compare(i);
            case Op.Cvta:
                return i.Space is Space.Shared or Space.Local ? i.Flag ? "sub_64" : "add_64" : "mov_64";
            case Op.Pack:
                return i.Sources.Length == 2 ? $"pack_{i.SourceType.Size() * 8}_{i.SourceType.Size() * 8}" : null;
            case Op.Unpack:
                return i.Destinations.Length == 2 ? $"unpack_{i.SourceType.Size() * 8}_{i.SourceType.Size() * 8}" : null;
            case Op.Cvt:
                return Convert(i);
            default:
                return null;
        }
    }

    private static string? Compare(Instruction i)
    {
        PtxType type = i.SourceType;
        if (i.Ftz || i.Destinations.Length > 1)
            return null;
        if (type.IsFloat())
            return type == PtxType.F32 ? $"setp_{i.Compare.ToString().ToLowerInvariant()}_f32" : null;
        int bits = type.Size() * 8;
        string sign = type.IsSigned() ? "s" : "u";
        return i.Compare switch
        {
            // ne, ge and gt are the complements of eq, lt and le; the compiler inverts them.
            Ir.Compare.Eq or Ir.Compare.Ne => $"setp_eq_{bits}",
            Ir.Compare.Lt or Ir.Compare.Ge => $"setp_lt_{sign}{bits}",
            _ => $"setp_le_{sign}{bits}",
        };
    }

    /// <summary>Whether the result of the method of <see cref="Of"/> must be inverted.</summary>
    public static bool Inverted(Instruction i) => i.Op == Op.Setp && !i.SourceType.IsFloat() && i.Compare is Ir.Compare.Ne or Ir.Compare.Ge or Ir.Compare.Gt;

    private static string? Convert(Instruction i)
    {
        if (i.Ftz)
            return null;
        bool nearest = i.Rounding is Rounding.Nearest;
        switch (i.Type, i.SourceType)
        {
            case (PtxType.S64 or PtxType.U64, PtxType.S32):
                return "cvt_s64_s32";
            case (PtxType.S64 or PtxType.U64, PtxType.U32):
                return "cvt_u64_u32";
            case (PtxType.S32 or PtxType.U32, PtxType.S64 or PtxType.U64):
                return "cvt_32_64";
            case (PtxType.S16 or PtxType.U16, PtxType.S32 or PtxType.U32):
                return "cvt_16_32";
            case (PtxType.U32 or PtxType.S32, PtxType.U16):
                return "cvt_u32_u16";
            case (PtxType.U32 or PtxType.S32, PtxType.S16):
                return "cvt_s32_s16";
            case (PtxType.U32 or PtxType.S32, PtxType.U8):
                return "cvt_u32_u8";
            case (PtxType.F32, PtxType.S32):
                return nearest ? "cvt_f32_s32" : null;
            case (PtxType.F32, PtxType.U32):
                return nearest ? "cvt_f32_u32" : null;
            case (PtxType.S32, PtxType.F32):
                return i.Rounding == Rounding.IntegerZero ? "cvt_rzi_s32_f32" : null;
            case (PtxType.F64, PtxType.F32):
                return "cvt_f64_f32";
            case (PtxType.F32, PtxType.F64):
                return nearest ? "cvt_f32_f64" : null;
            case (PtxType.F32, PtxType.BF16):
                return "cvt_f32_bf16";
            case (PtxType.F32, PtxType.F16):
                return "cvt_f32_f16";
            case (PtxType.BF16, PtxType.F32):
                return nearest ? "cvt_bf16_f32" : null;
            case (PtxType.F16, PtxType.F32):
                return nearest ? "cvt_f16_f32" : null;
            case (PtxType.BF16x2, PtxType.F32):
                return nearest ? "cvt_bf16x2_f32" : null;
            case (PtxType.F16x2, PtxType.F32):
                return nearest ? "cvt_f16x2_f32" : null;
            default:
                return null;
        }
    }
}
