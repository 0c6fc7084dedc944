using Repeng.PtxEmulator.Syntax;

namespace Repeng.PtxEmulator.Ir;

/// <summary>A straight piece of code: a body, and at most one instruction at the end that branches, exits or waits.</summary>
internal sealed class Chunk
{
    public int Index { get; init; }

    public Instruction[] Body { get; init; } = [];

    public Instruction? Last { get; init; }

    /// <summary>The chunk after this one, −1 at the end.</summary>
    public int Next { get; set; } = -1;

    public int[] Targets { get; set; } = [];

    /// <summary>Where lanes that part here meet again (the immediate post-dominator), −1 when only at the exit.</summary>
    public int Reconverge { get; set; } = -1;

    /// <summary>How many instructions of each class one pass issues.</summary>
    public int[] Classes { get; } = new int[Enum.GetValues<InstructionClass>().Length];

    public int Count => Body.Length + (Last is null ? 0 : 1);
}

/// <summary>A parameter of an entry and where it lies among the parameters.</summary>
internal readonly record struct KernelParameter(string Name, int Offset, int Size);

/// <summary>A variable in shared memory.</summary>
internal readonly record struct SharedVariable(string Name, long Offset, long Size);

/// <summary>A kernel ready to run: device functions inlined, registers placed, control flow known.</summary>
internal sealed class Kernel
{
    public required string Name { get; init; }

    public required Function Function { get; init; }

    public required Chunk[] Chunks { get; init; }

    public required Instruction[] Instructions { get; init; }

    public required int FrameBytes { get; init; }

    public required IReadOnlyList<KernelParameter> Parameters { get; init; }

    public required int ParameterBytes { get; init; }

    public required IReadOnlyList<SharedVariable> SharedVariables { get; init; }

    /// <summary>Bytes of static shared memory as laid out here, gaps between the variables included.</summary>
    public required long SharedLayoutBytes { get; init; }

    /// <summary>Bytes of static shared memory that the variables themselves need.</summary>
    public required long SharedStaticBytes { get; init; }

    public required bool UsesDynamicShared { get; init; }

    public required int LocalBytes { get; init; }

    /// <summary>Special registers by name.</summary>
    public required IReadOnlyDictionary<string, Register> Specials { get; init; }

    /// <summary>Registers whose reads are watched; <see cref="Watched"/> maps them to their place.</summary>
    public required IReadOnlyDictionary<Register, int> Watched { get; init; }

    /// <summary>Code of the chunks, made when they first run; owned by the compiler.</summary>
    public object? Compiled { get; set; }

    public object CompileLock { get; } = new();
}
