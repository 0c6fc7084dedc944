namespace Repeng.PtxEmulator.Syntax;

/// <summary>State spaces (PTX ISA, 5.1). <see cref="Generic"/>: the address says which.</summary>
internal enum Space
{
    Generic,
    Register,
    Param,
    Local,
    Shared,
    Global,
    Constant,
}


internal enum OperandKind
{
    Name,
    Immediate,
    Address,
    Vector,
    Sink,
    List,
}

/// <summary>An operand as written: a register or symbol (with an offset), an immediate, an address, a vector in braces, a list in parentheses, or <c>_</c>.</summary>
internal sealed record Operand(OperandKind Kind)
{
    public string Name { get; init; } = "";

    /// <summary>Offset of a symbol or address, or the bits of an immediate.</summary>
    public ulong Bits { get; init; }

    /// <summary>0 for an integer immediate, else the width of the float that was written.</summary>
    public int FloatWidth { get; init; }

    /// <summary>A predicate written with <c>!</c>.</summary>
    public bool Negated { get; init; }

    public Operand[] Items { get; init; } = [];

    /// <summary>The second half of <c>d|p</c>.</summary>
    public Operand? Second { get; init; }

    public override string ToString() => Kind switch
    {
        OperandKind.Name => (Negated ? "!" : "") + Name + (Bits != 0 ? $"+{(long)Bits}" : "") + (Second is null ? "" : "|" + Second),
        OperandKind.Immediate => FloatWidth == 0 ? ((long)Bits).ToString() : FloatWidth == 32 ? $"0f{Bits:X8}" : $"0d{Bits:X16}",
        OperandKind.Address => $"[{Name}{(Bits != 0 || Name.Length == 0 ? (Name.Length == 0 ? "" : "+") + (long)Bits : "")}]",
        OperandKind.Vector => "{" + string.Join(", ", (object[])Items) + "}",
        OperandKind.List => "(" + string.Join(", ", (object[])Items) + ")",
        _ => "_",
    };
}

/// <summary>A pair of braces and the names declared in it.</summary>
internal sealed class Scope(Scope? outer)
{
    private readonly Dictionary<string, object> _names = new(StringComparer.Ordinal);

    public Scope? Outer { get; } = outer;

    /// <summary>False when the name is taken in this scope.</summary>
    public bool Declare(string name, object what) => _names.TryAdd(name, what);

    public object? Find(string name)
    {
        for (Scope? scope = this; scope is not null; scope = scope.Outer)
            if (scope._names.TryGetValue(name, out object? what))
                return what;
        return null;
    }
}

internal abstract record Statement(int Line);

/// <summary>A label; declared in its scope under its name, compared by reference.</summary>
internal sealed record Label(string Name, int Line) : Statement(Line);

/// <summary><c>name: .branchtargets a, b;</c></summary>
internal sealed record BranchTargets(string Name, string[] Targets, Scope Scope, int Line) : Statement(Line);

internal sealed record InstructionSyntax(string Opcode, Operand[] Operands, string? Guard, bool GuardNegated, Scope Scope, SourcePlace Source, int Line) : Statement(Line)
{
    public override string ToString()
        => (Guard is null ? "" : $"@{(GuardNegated ? "!" : "")}{Guard} ") + Opcode + (Operands.Length == 0 ? "" : " " + string.Join(", ", (object[])Operands)) + ";";
}

/// <summary>A declared register.</summary>
internal sealed class RegisterDeclaration(string name, PtxType type)
{
    public string Name { get; } = name;

    public PtxType Type { get; } = type;
}

/// <summary>A pointer inside an initialiser: the address of <paramref name="Symbol"/> plus <paramref name="Addend"/> goes to byte <paramref name="At"/>.</summary>
internal readonly record struct Relocation(long At, string Symbol, long Addend, bool Generic);

/// <summary>A declared variable or parameter. <see cref="Size"/> is −1 for an array whose size the launch gives (<c>.extern .shared x[]</c>).</summary>
internal sealed class Variable
{
    public required string Name { get; init; }

    public required Space Space { get; init; }

    public required PtxType Type { get; init; }

    public int Alignment { get; init; }

    public long Size { get; init; }

    public byte[]? Initial { get; init; }

    public IReadOnlyList<Relocation> Relocations { get; init; } = [];

    public bool External { get; init; }

    public int Line { get; init; }
}

/// <summary>An entry or a device function.</summary>
internal sealed class Function
{
    public required string Name { get; init; }

    public bool IsEntry { get; init; }

    /// <summary>Variables in <c>.param</c> space, or registers.</summary>
    public List<object> Returns { get; } = [];

    public List<object> Parameters { get; } = [];

    public List<Statement> Body { get; } = [];

    public List<Variable> Variables { get; } = [];

    /// <summary>False for a declaration alone.</summary>
    public bool HasBody { get; set; }

    /// <summary>Most threads a block (<c>.maxntid</c>), 0 when not said.</summary>
    public int MaxThreads { get; set; }

    /// <summary>The block's size that must be used (<c>.reqntid</c>), null when not said.</summary>
    public (int X, int Y, int Z)? RequiredThreads { get; set; }

    public int Line { get; init; }
}

/// <summary>A parsed module.</summary>
internal sealed class ModuleSyntax
{
    public string Version { get; set; } = "";

    public string Target { get; set; } = "";

    public List<Variable> Variables { get; } = [];

    public Dictionary<string, Function> Functions { get; } = new(StringComparer.Ordinal);

    public Scope Scope { get; } = new(null);
}
