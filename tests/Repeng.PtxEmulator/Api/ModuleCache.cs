using System.Collections.Concurrent;
using Repeng.PtxEmulator.Ir;
using Repeng.PtxEmulator.Syntax;

namespace Repeng.PtxEmulator;

/// <summary>Parsed modules by their text, and their kernels with the code compiled so far: a test suite loads the same PTX on many devices.</summary>
internal sealed class ModuleCache
{
    private const int MostModules = 64;

    private static readonly ConcurrentDictionary<string, ModuleCache> s_modules = new(StringComparer.Ordinal);

    private ModuleCache(ModuleSyntax syntax) => Syntax = syntax;

    public ModuleSyntax Syntax { get; }

    public ConcurrentDictionary<string, Kernel> Kernels { get; } = new(StringComparer.Ordinal);

    public static ModuleCache Get(string ptx)
    {
        if (s_modules.Count >= MostModules)
            s_modules.Clear();
        return s_modules.GetOrAdd(ptx, static text => new ModuleCache(Parser.Parse(text)));
    }
}
