using Repeng.PtxEmulator.Syntax;

namespace Repeng.PtxEmulator.Ir;

internal sealed partial class Decoder
{
    private static readonly PtxType[] s_integers = [PtxType.U16, PtxType.S16, PtxType.U32, PtxType.S32, PtxType.U64, PtxType.S64];
    private static readonly PtxType[] s_bits = [PtxType.B16, PtxType.B32, PtxType.B64, PtxType.Pred];

    private bool Arithmetic()
    {
        switch (_m.Root)
        {
            case "add" or "sub":
                bool add = _m.Root == "add";
                if (_m.Take("cc"))
                    return Carry(add ? Op.AddCC : Op.SubCC, true, 2);
                FloatFlags();
                return Plain(add ? Op.Add : Op.Sub, Numeric(packedIntegers: add), 2);
            case "addc":
                return Carry(Op.AddC, _m.Take("cc"), 2);
            case "subc":
                return Carry(Op.SubC, _m.Take("cc"), 2);
            case "mul" or "mad":
                return MulMad(_m.Root == "mul");
            case "madc":
                _i.Part = _m.Part();
                return Carry(Op.MadC, _m.Take("cc"), 3);
            case "mul24" or "mad24":
                _i.Part = _m.Part();
                _i.Saturate = _m.Take("sat");
                PtxType type24 = _m.Type();
                Only(type24, PtxType.U32, PtxType.S32);
                return Plain(_m.Root == "mul24" ? Op.Mul24 : Op.Mad24, type24, _m.Root == "mul24" ? 2 : 3);
            case "fma":
                FloatFlags();
                _i.Relu = _m.Take("relu");
                PtxType fused = _m.Type();
                Only(fused, PtxType.F16, PtxType.F16x2, PtxType.BF16, PtxType.BF16x2, PtxType.F32, PtxType.F64);
                NeedRounding();
                return Plain(Op.Fma, fused, 3);
            case "div":
                _i.Approximate = _m.Any("approx", "full") is not null;
                FloatFlags();
                PtxType quotient = Numeric();
                if (quotient.IsFloat() && !_i.Approximate)
                    NeedRounding();
                return Plain(Op.Div, quotient, 2);
            case "rem":
                return Plain(Op.Rem, Integer(), 2);
            case "sad":
                PtxType sad = Integer();
                return Plain(Op.Sad, sad, 3);
            case "abs" or "neg":
                _i.Ftz = _m.Take("ftz");
                return Plain(_m.Root == "abs" ? Op.Abs : Op.Neg, Numeric(), 1);
            case "min" or "max":
                _i.Ftz = _m.Take("ftz");
                _i.NanWins = _m.Take("NaN");
                _i.Relu = _m.Take("relu");
                _i.XorSignAbs = _m.Take("xorsign") & _m.Take("abs");
                return Plain(_m.Root == "min" ? Op.Min : Op.Max, Numeric(packedIntegers: true), 2);
            case "rcp" or "sqrt" or "rsqrt" or "sin" or "cos" or "lg2" or "ex2" or "tanh":
                return Unary();
            case "popc" or "clz" or "brev":
                PtxType bits = _m.Type();
                Only(bits, PtxType.B32, PtxType.B64);
                Op bitOp = _m.Root == "popc" ? Op.Popc : _m.Root == "clz" ? Op.Clz : Op.Brev;
                return bitOp == Op.Brev ? Plain(bitOp, bits, 1) : Mixed(bitOp, bits, PtxType.U32, bits);
            case "bfind":
                _i.Flag = _m.Take("shiftamt");
                PtxType found = _m.Type();
                Only(found, PtxType.U32, PtxType.S32, PtxType.U64, PtxType.S64);
                return Mixed(Op.Bfind, found, PtxType.U32, found);
            case "fns":
                PtxType fns = _m.Type();
                Only(fns, PtxType.B32);
                return Plain(Op.Fns, fns, 3);
            case "bfe":
                PtxType field = _m.Type();
                Only(field, PtxType.U32, PtxType.S32, PtxType.U64, PtxType.S64);
                return Mixed(Op.Bfe, field, field, field, PtxType.U32, PtxType.U32);
            case "bfi":
                PtxType into = _m.Type();
                Only(into, PtxType.B32, PtxType.B64);
                return Mixed(Op.Bfi, into, into, into, into, PtxType.U32, PtxType.U32);
            case "szext" or "bmsk":
                _i.Mode = _m.Need("wrap", "clamp") == "wrap" ? Mode.Wrap : Mode.Clamp;
                PtxType extended = _m.Type();
                Only(extended, PtxType.U32, PtxType.S32, PtxType.B32);
                return Plain(_m.Root == "szext" ? Op.Szext : Op.Bmsk, extended, 2);
            case "dp4a" or "dp2a":
                if (_m.Root == "dp2a")
                    _i.Part = _m.Part();
                _i.Type = _m.Type();
                _i.SourceType = _m.Type();
                Only(_i.Type, PtxType.U32, PtxType.S32);
                Only(_i.SourceType, PtxType.U32, PtxType.S32);
                return Plain(_m.Root == "dp4a" ? Op.Dp4a : Op.Dp2a, _i.Type, 3);
            case "and" or "or" or "xor":
                PtxType logic = _m.Type();
                Only(logic, s_bits);
                return Plain(_m.Root == "and" ? Op.And : _m.Root == "or" ? Op.Or : Op.Xor, logic, 2);
            case "not" or "cnot":
                PtxType inverted = _m.Type();
                Only(inverted, s_bits);
                return Plain(_m.Root == "not" ? Op.Not : Op.Cnot, inverted, 1);
            case "shl" or "shr":
                PtxType shifted = _m.Type();
                Only(shifted, PtxType.B16, PtxType.B32, PtxType.B64, PtxType.U16, PtxType.U32, PtxType.U64, PtxType.S16, PtxType.S32, PtxType.S64);
                return Mixed(_m.Root == "shl" ? Op.Shl : Op.Shr, shifted, shifted, shifted, PtxType.U32);
            case "shf":
                _i.Flag = _m.Need("l", "r") == "l";
                _i.Mode = _m.Need("wrap", "clamp") == "wrap" ? Mode.Wrap : Mode.Clamp;
                PtxType funnel = _m.Type();
                Only(funnel, PtxType.B32);
                return Plain(Op.Shf, funnel, 3);
            case "prmt":
                PtxType permuted = _m.Type();
                Only(permuted, PtxType.B32);
                _i.Mode = _m.Any("f4e", "b4e", "rc8", "ecl", "ecr", "rc16") switch
                {
                    "f4e" => Mode.F4e,
                    "b4e" => Mode.B4e,
                    "rc8" => Mode.Rc8,
                    "ecl" => Mode.Ecl,
                    "ecr" => Mode.Ecr,
                    "rc16" => Mode.Rc16,
                    _ => Mode.None,
                };
                return Plain(Op.Prmt, permuted, 3);
            case "lop3":
                return TripleLogic();
            case "setp" or "set":
                return SetCompare();
            case "selp":
                PtxType selected = _m.Type();
                Count(4, 4);
                return Mixed(Op.Selp, selected, selected, selected, selected, PtxType.Pred);
            case "slct":
                _i.Ftz = _m.Take("ftz");
                PtxType picked = _m.Type();
                PtxType by = _m.Type();
                Only(by, PtxType.S32, PtxType.F32);
                Mixed(Op.Slct, picked, picked, picked, picked, by);
                _i.SourceType = by;
                return true;
            case "testp":
                _i.Mode = _m.Need("finite", "infinite", "number", "notanumber", "normal", "subnormal") switch
                {
                    "finite" => Mode.Finite,
                    "infinite" => Mode.Infinite,
                    "number" => Mode.Number,
                    "notanumber" => Mode.NotANumber,
                    "normal" => Mode.Normal,
                    _ => Mode.Subnormal,
                };
                PtxType tested = _m.Type();
                Only(tested, PtxType.F32, PtxType.F64);
                Mixed(Op.Testp, PtxType.Pred, PtxType.Pred, tested);
                _i.SourceType = tested;
                return true;
            case "copysign":
                PtxType signed = _m.Type();
                Only(signed, PtxType.F32, PtxType.F64);
                return Plain(Op.Copysign, signed, 2);
            case "cvt":
                return Convert();
            default:
                return false;
        }
    }

    /// <summary>lop3.b32 d, a, b, c, table; lop3.or.b32 d|p, a, b, c, table, q: the predicate is (d ≠ 0) or q.</summary>
    private bool TripleLogic()
    {
        _i.Combine = _m.Any("or", "and") switch { "or" => Mode.Or, "and" => Mode.And, _ => Mode.None };
        PtxType type = _m.Type();
        Only(type, PtxType.B32);
        if (_i.Combine == Mode.None)
        {
            Plain(Op.Lop3, type, 4);
        }
        else
        {
            Count(6, 6);
            _i.Op = Op.Lop3;
            _i.Type = type;
            Operand both = syntax.Operands[0];
            if (both.Second is null)
                throw _m.Error("a predicate beside the destination is missing");
            _i.Destinations = [Destination(both with { Second = null }, type), Destination(both.Second, PtxType.Pred)];
            _i.Sources = [Source(1, type), Source(2, type), Source(3, type), Source(4, type), Source(5, PtxType.Pred)];
        }

        return _i.Sources[3].Kind == ValueKind.Immediate ? true : throw _m.Error("the table of lop3 must be a constant");
    }

    private void FloatFlags()
    {
        _i.Rounding = _m.Rounding();
        _i.Ftz = _m.Take("ftz");
        _i.Saturate = _m.Take("sat");
    }

    private void NeedRounding()
    {
        if (_i.Rounding is not (Rounding.Nearest or Rounding.Zero or Rounding.Down or Rounding.Up))
            throw _m.Error("a rounding is missing");
    }

    private PtxType Integer()
    {
        PtxType type = _m.Type();
        Only(type, s_integers);
        return type;
    }

    private PtxType Numeric(bool packedIntegers = false)
    {
        PtxType type = _m.Type();
        if (!(type.IsFloat() && type != PtxType.TF32) && Array.IndexOf(s_integers, type) < 0 && !(packedIntegers && type.IsPacked()))
            throw _m.Error($"the type .{type.ToString().ToLowerInvariant()} is not known here");
        return type;
    }

    /// <summary>d and its sources of different types.</summary>
    private bool Mixed(Op op, PtxType type, PtxType destination, params ReadOnlySpan<PtxType> sources)
    {
        Count(sources.Length + 1, sources.Length + 1);
        _i.Op = op;
        _i.Type = type;
        _i.Destinations = [Destination(syntax.Operands[0], destination)];
        _i.Sources = new Value[sources.Length];
        for (int s = 0; s < sources.Length; s++)
            _i.Sources[s] = Source(s + 1, sources[s]);
        return true;
    }

    /// <summary>Extended-precision arithmetic: the carry flag is the last source, and the last destination where it is written.</summary>
    private bool Carry(Op op, bool writes, int sources)
    {
        PtxType type = _m.Type();
        Only(type, PtxType.U32, PtxType.S32, PtxType.U64, PtxType.S64);
        Plain(op, type, sources);
        if (op is Op.AddC or Op.SubC or Op.MadC)
            _i.Sources = [.. _i.Sources, Value.Of(names.Carry)];
        if (writes)
            _i.Destinations = [_i.Destinations[0], Value.Of(names.Carry)];
        return true;
    }

    private bool MulMad(bool mul)
    {
        _i.Part = _m.Part();
        if (!mul && _m.Take("cc"))
            return Carry(Op.MadCC, true, 3);
        FloatFlags();
        PtxType type = Numeric();
        if (type.IsFloat())
        {
            if (!mul)
                NeedRounding();
            return Plain(mul ? Op.Mul : Op.Fma, type, mul ? 2 : 3);
        }

        if (_i.Part == Part.None)
            throw _m.Error("one of .lo, .hi, .wide is missing");
        if (_i.Part != Part.Wide)
            return Plain(mul ? Op.Mul : Op.Mad, type, mul ? 2 : 3);
        PtxType wide = type switch
        {
            PtxType.U16 => PtxType.U32,
            PtxType.S16 => PtxType.S32,
            PtxType.U32 => PtxType.U64,
            PtxType.S32 => PtxType.S64,
            _ => throw _m.Error("no product of 128 bits"),
        };
        return mul ? Mixed(Op.Mul, type, wide, type, type) : Mixed(Op.Mad, type, wide, type, type, wide);
    }

    private bool Unary()
    {
        _i.Approximate = _m.Take("approx");
        FloatFlags();
        PtxType type = _m.Type();
        Op op = Enum.Parse<Op>(_m.Root, ignoreCase: true);
        if (op is Op.Ex2 or Op.Tanh)
            Only(type, PtxType.F16, PtxType.F16x2, PtxType.BF16, PtxType.BF16x2, PtxType.F32);
        else if (op is Op.Rcp or Op.Sqrt or Op.Rsqrt)
            Only(type, PtxType.F32, PtxType.F64);
        else
            Only(type, PtxType.F32);
        if (!_i.Approximate && op is Op.Rcp or Op.Sqrt)
            NeedRounding();
        else if (!_i.Approximate)
            throw _m.Error(".approx is missing");
        return Plain(op, type, 1);
    }

    private bool SetCompare()
    {
        bool predicate = _m.Root == "setp";
        string compare = _m.Need("eq", "ne", "lt", "le", "gt", "ge", "lo", "ls", "hi", "hs", "equ", "neu", "ltu", "leu", "gtu", "geu", "num", "nan");
        _i.Combine = _m.Any("and", "or", "xor") switch { "and" => Mode.And, "or" => Mode.Or, "xor" => Mode.Xor, _ => Mode.None };
        _i.Ftz = _m.Take("ftz");
        PtxType destination = predicate ? PtxType.Pred : _m.Type();
        PtxType type = _m.Type();
        _i.Compare = compare switch
        {
            "lo" => Compare.Lt,
            "ls" => Compare.Le,
            "hi" => Compare.Gt,
            "hs" => Compare.Ge,
            _ => Enum.Parse<Compare>(compare, ignoreCase: true),
        };
        bool unsignedName = compare is "lo" or "ls" or "hi" or "hs";
        if (type.IsFloat() ? unsignedName : _i.Compare > Compare.Ge)
            throw _m.Error($".{compare} does not compare .{type.ToString().ToLowerInvariant()}");
        if (unsignedName && type.IsSigned())
            throw _m.Error($".{compare} compares unsigned values alone");
        int sources = _i.Combine == Mode.None ? 2 : 3;
        Count(sources + 1, sources + 1);
        _i.Op = predicate ? Op.Setp : Op.Set;
        _i.Type = destination;
        _i.SourceType = type;
        Operand first = syntax.Operands[0];
        _i.Destinations = first.Second is null ? [Destination(first, destination)] : [Destination(first, destination), Destination(first.Second, destination)];
        if (type.IsPacked())
        {
            Only(type, PtxType.F16x2, PtxType.BF16x2);
            if (predicate && first.Second is null)
                throw _m.Error("a comparison of two halves gives two predicates");
            if (!predicate)
                Only(destination, type, PtxType.U32, PtxType.S32);
        }

        _i.Sources = [Source(1, type), Source(2, type)];
        if (_i.Combine != Mode.None)
            _i.Sources = [.. _i.Sources, Source(3, PtxType.Pred)];
        return true;
    }

    private bool Convert()
    {
        if (_m.Take("pack"))
        {
            // cvt.pack.sat.s8.s32.b32 d, a, b, c
            _i.Saturate = _m.Take("sat");
            _i.Type = _m.Type();
            _i.SourceType = _m.Type();
            Only(_i.Type, PtxType.U16, PtxType.S16, PtxType.U8, PtxType.S8);
            Only(_i.SourceType, PtxType.S32);
            bool three = _i.Type.Size() == 1;
            if (three)
                _m.Need("b32");
            Count(three ? 4 : 3, three ? 4 : 3);
            _i.Op = Op.CvtPack;
            _i.Destinations = [Destination(syntax.Operands[0], PtxType.B32)];
            _i.Sources = [.. Enumerable.Range(1, three ? 3 : 2).Select(s => Source(s, PtxType.B32))];
            return true;
        }

        FloatFlags();
        _i.Saturate |= _m.Take("satfinite");
        _i.Relu = _m.Take("relu");
        PtxType to = _m.Type(), from = _m.Type();
        _i.Op = Op.Cvt;
        _i.Type = to;
        _i.SourceType = from;
        if (to.IsPacked())
        {
            Only(to, PtxType.F16x2, PtxType.BF16x2);
            Only(from, PtxType.F32);
            NeedRounding();
            Count(3, 3);
            _i.Destinations = [Destination(syntax.Operands[0], to)];
            _i.Sources = [Source(1, from), Source(2, from)];
            return true;
        }

        Count(2, 2);
        if (from.IsPacked() || to.IsBits() || from.IsBits() || from == PtxType.TF32)
            throw _m.Error("this conversion is not known");
        if (to == PtxType.TF32)
            Only(from, PtxType.F32);
        if (_i.Rounding == Rounding.None && to.IsFloat() && (from.IsInteger() || from.Size() > to.Size() || to == PtxType.TF32))
            throw _m.Error("a rounding is missing");
        if (_i.Rounding == Rounding.None && to.IsInteger() && from.IsFloat())
            throw _m.Error("a rounding to an integer is missing");
        Value destination = Single(syntax.Operands[0], to), source = Single(syntax.Operands[1], from);
        if (destination.Kind == ValueKind.Immediate || destination.Register is { } d && d.Width < Math.Max(16, to.Size() * 8))
            throw _m.Error("the destination does not fit");
        if (source.Kind == ValueKind.Sink || source.Register is { } s && s.Width < Math.Max(16, from.Size() * 8))
            throw _m.Error("the source does not fit");
        _i.Destinations = [destination];
        _i.Sources = [source];
        return true;
    }
}
