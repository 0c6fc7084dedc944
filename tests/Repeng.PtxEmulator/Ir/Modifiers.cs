using Repeng.PtxEmulator.Syntax;

namespace Repeng.PtxEmulator.Ir;

/// <summary>The dotted words of an opcode. Each must be taken by somebody: <see cref="End"/> refuses what is left.</summary>
internal sealed class Modifiers
{
    private readonly InstructionSyntax _syntax;
    private readonly List<string> _left;

    public Modifiers(InstructionSyntax syntax)
    {
        _syntax = syntax;
        string[] parts = syntax.Opcode.Split('.');
        Root = parts[0];
        _left = [.. parts[1..]];
    }

    public string Root { get; }

    public bool Take(string word) => _left.Remove(word);

    /// <summary>The first word of the list that is there, or null.</summary>
    public string? Any(params ReadOnlySpan<string> words)
    {
        foreach (string word in words)
            if (_left.Remove(word))
                return word;
        return null;
    }

    public string Need(params ReadOnlySpan<string> words) => Any(words) ?? throw Error($"one of {string.Join(", ", words.ToArray().Select(w => "." + w))} is missing");

    /// <summary>The first word that names a type.</summary>
    public PtxType Type()
    {
        for (int i = 0; i < _left.Count; i++)
        {
            PtxType type = PtxTypes.Parse(_left[i]);
            if (type == PtxType.None)
                continue;
            _left.RemoveAt(i);
            return type;
        }

        throw Error("a type is missing");
    }

    public bool TryWhere(Func<string, bool> match, out string word)
    {
        int at = _left.FindIndex(w => match(w));
        word = at >= 0 ? _left[at] : "";
        if (at >= 0)
            _left.RemoveAt(at);
        return at >= 0;
    }

    public Rounding Rounding() => Any("rn", "rz", "rm", "rp", "rni", "rzi", "rmi", "rpi", "rna") switch
    {
        "rn" => Ir.Rounding.Nearest,
        "rz" => Ir.Rounding.Zero,
        "rm" => Ir.Rounding.Down,
        "rp" => Ir.Rounding.Up,
        "rni" => Ir.Rounding.IntegerNearest,
        "rzi" => Ir.Rounding.IntegerZero,
        "rmi" => Ir.Rounding.IntegerDown,
        "rpi" => Ir.Rounding.IntegerUp,
        "rna" => Ir.Rounding.NearestAway,
        _ => Ir.Rounding.None,
    };

    public Part Part() => Any("lo", "hi", "wide") switch { "lo" => Ir.Part.Lo, "hi" => Ir.Part.Hi, "wide" => Ir.Part.Wide, _ => Ir.Part.None };

    public Space Space() => Any("global", "shared", "shared::cta", "local", "const", "param", "param::entry", "param::func") switch
    {
        "global" => Syntax.Space.Global,
        "shared" or "shared::cta" => Syntax.Space.Shared,
        "local" => Syntax.Space.Local,
        "const" => Syntax.Space.Constant,
        "param" or "param::entry" or "param::func" => Syntax.Space.Param,
        _ => Syntax.Space.Generic,
    };

    public Semantics Semantics()
    {
        // .mmio stands beside .relaxed, and orders as .volatile does here.
        bool device = Take("mmio");
        string? order = Any("weak", "volatile", "relaxed", "acquire", "release", "acq_rel", "sc");
        return device ? Ir.Semantics.Volatile : order switch
        {
            "volatile" => Ir.Semantics.Volatile,
            "relaxed" => Ir.Semantics.Relaxed,
            "acquire" => Ir.Semantics.Acquire,
            "release" => Ir.Semantics.Release,
            "acq_rel" or "sc" => Ir.Semantics.AcquireRelease,
            _ => Ir.Semantics.Weak,
        };
    }

    /// <summary>Cache hints, which change no result. True when a policy operand follows.</summary>
    public bool Hints()
    {
        bool policy = Take("L2::cache_hint");
        while (Any("ca", "cg", "cs", "lu", "cv", "wb", "wt", "nc", "L1::evict_normal", "L1::evict_unchanged", "L1::evict_first", "L1::evict_last", "L1::no_allocate",
            "L2::evict_normal", "L2::evict_first", "L2::evict_last", "L2::64B", "L2::128B", "L2::256B") is not null)
        {
        }

        return policy;
    }

    public int Vector() => Any("v2", "v4", "v8") switch { "v2" => 2, "v4" => 4, "v8" => 8, _ => 1 };

    public void End()
    {
        if (_left.Count > 0)
            throw Error($"modifier '.{_left[0]}' is not known here");
    }

    public PtxSyntaxException Error(string what) => new($"{what}: '{_syntax}'", _syntax.Line);
}
