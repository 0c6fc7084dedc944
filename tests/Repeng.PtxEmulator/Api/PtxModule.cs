using Repeng.PtxEmulator.Ir;
using Repeng.PtxEmulator.Memory;
using Repeng.PtxEmulator.Syntax;

namespace Repeng.PtxEmulator;

/// <summary>A loaded module: its variables live in device memory until it is unloaded.</summary>
public sealed class PtxModule
{
    private readonly Dictionary<string, Allocation> _variables = new(StringComparer.Ordinal);
    private readonly Dictionary<string, PtxFunction> _functions = new(StringComparer.Ordinal);
    private readonly ModuleCache _cached;
    private readonly ModuleSyntax _syntax;

    internal PtxModule(PtxDevice device, string ptx)
    {
        Device = device;
        _cached = ModuleCache.Get(ptx);
        _syntax = _cached.Syntax;
        if (_syntax.Version.Length == 0 || _syntax.Target.Length == 0)
            throw new PtxSyntaxException(".version or .target is missing", 1);
        try
        {
            Place();
        }
        catch
        {
            Unload();
            throw;
        }
    }

    internal PtxDevice Device { get; }

    /// <summary>Names of the kernels.</summary>
    public IEnumerable<string> Kernels => _syntax.Functions.Values.Where(f => f.IsEntry && f.HasBody).Select(f => f.Name);

    /// <summary>The target that the module was compiled for: sm_80.</summary>
    public string Target => _syntax.Target;

    /// <summary>Decodes a kernel, at the first call.</summary>
    /// <exception cref="InvalidCallException">The module has no such kernel.</exception>
    /// <exception cref="PtxSyntaxException">The kernel uses something unknown.</exception>
    public PtxFunction GetFunction(string name)
    {
        lock (_functions)
        {
            if (_functions.TryGetValue(name, out PtxFunction? known))
                return known;
            if (!_syntax.Functions.TryGetValue(name, out Function? function) || !function.IsEntry || !function.HasBody)
                throw new InvalidCallException($"no kernel '{name}'; there are {string.Join(", ", Kernels)}", 500);
            // Without variables of its own a kernel is the same on every device: its code is compiled once.
            Kernel kernel = _variables.Count == 0
                ? _cached.Kernels.GetOrAdd(name, _ => KernelBuilder.Build(_syntax, function, v => Variable(v).Address))
                : KernelBuilder.Build(_syntax, function, v => Variable(v).Address);
            return _functions[name] = new PtxFunction(this, kernel);
        }
    }

    /// <summary>Address and bytes of a variable in global or constant memory.</summary>
    public (ulong Address, long Bytes) GetGlobal(string name)
    {
        Allocation allocation = Variable(name);
        return (allocation.Address, allocation.Size);
    }

    private Allocation Variable(string name)
        => _variables.TryGetValue(name, out Allocation? allocation) ? allocation : throw new InvalidCallException($"no variable '{name}' in global or constant memory", 500);

    private void Place()
    {
        foreach (Variable variable in _syntax.Variables.Where(v => v.Space is Space.Global or Space.Constant && !v.External))
        {
            if (variable.Size <= 0)
                throw new PtxSyntaxException($"'{variable.Name}' has no size", variable.Line);
            // Variables without initialisers are zero (PTX ISA, 5.4.4).
            _variables[variable.Name] = Device.Memory.Allocate(variable.Size, $"variable '{variable.Name}'", variable.Space == Space.Constant);
        }

        foreach (Variable variable in _syntax.Variables)
        {
            if (!_variables.TryGetValue(variable.Name, out Allocation? allocation))
                continue;
            Span<byte> bytes = Device.Bytes(allocation, 0, allocation.Size);
            bytes.Clear();
            variable.Initial?.CopyTo(bytes);
            foreach (Relocation relocation in variable.Relocations)
                BitConverter.TryWriteBytes(bytes[(int)relocation.At..], Variable(relocation.Symbol).Address + (ulong)relocation.Addend);
            allocation.Written?.Set(0, allocation.Size);
        }
    }

    internal void Unload()
    {
        foreach (Allocation allocation in _variables.Values)
            Device.Memory.Free(allocation.Address);
        _variables.Clear();
    }
}

/// <summary>A kernel.</summary>
public sealed class PtxFunction
{
    internal PtxFunction(PtxModule module, Kernel kernel)
    {
        Module = module;
        Kernel = kernel;
    }

    internal PtxModule Module { get; }

    internal Kernel Kernel { get; }

    public string Name => Kernel.Name;

    /// <summary>Bytes of each parameter, in order.</summary>
    public IReadOnlyList<int> ParameterSizes => [.. Kernel.Parameters.Select(p => p.Size)];

    /// <summary>Static shared memory in bytes.</summary>
    public long SharedBytes => Kernel.SharedStaticBytes;

    /// <summary>Local memory a thread in bytes.</summary>
    public int LocalBytes => Kernel.LocalBytes - 16;

    /// <summary>Most threads a block: 1024, or what the kernel says.</summary>
    public int MaxThreads
    {
        get
        {
            Function function = Kernel.Function;
            return function.RequiredThreads is { } r ? r.X * r.Y * r.Z : function.MaxThreads > 0 ? function.MaxThreads : 1024;
        }
    }

    /// <summary>Most dynamic shared memory a launch may ask for; above 48 KiB it must be raised first, as with the driver.</summary>
    public long MaxDynamicShared { get; set; } = -1;
}
