using Repeng.PtxEmulator.Syntax;

namespace Repeng.PtxEmulator.Ir;

/// <summary>
/// Builds a kernel from its function: calls are inlined (recursion is refused), names resolved, registers and shared and local memory placed.
/// Parameters of calls (<c>.param</c> variables of a body, formal parameters of device functions) live in the thread's local memory.
/// </summary>
internal sealed class KernelBuilder : INames
{
    /// <summary>Between variables in shared memory, so that running past one is noticed; a multiple of the 32 banks.</summary>
    private const int SharedGap = 128;

    private sealed class Instance(Function function)
    {
        public Function Function { get; } = function;

        /// <summary>Register or local offset of what is declared; labels of this call.</summary>
        public Dictionary<object, object> Map { get; } = new(ReferenceEqualityComparer.Instance);

        public object? End { get; set; }
    }

    private readonly ModuleSyntax _module;
    private readonly Func<string, ulong> _globals;
    private readonly List<object> _items = [];
    private readonly List<Register> _registers = [];
    private readonly Dictionary<string, Register> _specials = new(StringComparer.Ordinal);
    private readonly Dictionary<string, long> _shared = new(StringComparer.Ordinal);
    private readonly List<SharedVariable> _sharedVariables = [];
    private readonly Dictionary<object, int> _parameters = new(ReferenceEqualityComparer.Instance);
    private readonly Stack<Function> _calls = new();
    private Instance _instance;
    private Register? _carry;
    private int _frame;
    private int _local = 16;
    private long _sharedBytes;
    private long _sharedStatic;
    private bool _dynamic;

    private KernelBuilder(ModuleSyntax module, Function entry, Func<string, ulong> globals)
    {
        _module = module;
        _globals = globals;
        _instance = new Instance(entry);
    }

    public bool InDeviceFunction => !_instance.Function.IsEntry;

    public Register Carry => _carry ??= NewRegister("carry flag", PtxType.Pred);

    /// <summary>Builds the kernel of an entry. <paramref name="globals"/> gives the address of a variable in global or constant memory.</summary>
    public static Kernel Build(ModuleSyntax module, Function entry, Func<string, ulong> globals)
    {
        var builder = new KernelBuilder(module, entry, globals);
        builder.PlaceShared(entry);
        int bytes = 0;
        var parameters = new List<KernelParameter>();
        foreach (object parameter in entry.Parameters)
        {
            if (parameter is not Variable variable)
                throw new PtxSyntaxException($"{entry.Name} has a parameter in a register", entry.Line);
            bytes = (bytes + variable.Alignment - 1) / variable.Alignment * variable.Alignment;
            builder._parameters[variable] = bytes;
            parameters.Add(new KernelParameter(variable.Name, bytes, (int)variable.Size));
            bytes += (int)variable.Size;
        }

        builder._calls.Push(entry);
        builder.Inline(entry);
        Chunk[] chunks = FlowGraph.Cut(builder._items, out Instruction[] instructions, entry);
        var watched = UnsetRegisters.Find(chunks, builder._registers);
        return new Kernel
        {
            Name = entry.Name,
            Function = entry,
            Chunks = chunks,
            Instructions = instructions,
            FrameBytes = builder._frame,
            Parameters = parameters,
            ParameterBytes = bytes,
            SharedVariables = builder._sharedVariables,
            SharedLayoutBytes = builder._sharedBytes,
            SharedStaticBytes = builder._sharedStatic,
            UsesDynamicShared = builder._dynamic,
            LocalBytes = builder._local,
            Specials = builder._specials,
            Watched = watched,
        };
    }

    private Register NewRegister(string name, PtxType type)
    {
        if (type == PtxType.B128)
            throw new PtxSyntaxException($"registers of 128 bits ({name}) are not supported", 0);
        var register = new Register(name, type, Register.WidthOf(type));
        int align = Math.Min(64, register.FrameBytes);
        _frame = (_frame + align - 1) / align * align;
        register.Offset = _frame;
        _frame += register.FrameBytes;
        _registers.Add(register);
        return register;
    }

    private void PlaceShared(Function entry)
    {
        var seen = new HashSet<Function>();
        var names = new List<(Variable Variable, string Key)>();
        void Visit(Function function)
        {
            if (!seen.Add(function))
                return;
            foreach (Variable variable in function.Variables.Where(v => v.Space == Space.Shared))
                names.Add((variable, function.Name + "/" + variable.Name));
            foreach (InstructionSyntax instruction in function.Body.OfType<InstructionSyntax>())
                foreach (Operand operand in instruction.Operands)
                    Names(operand);
        }

        void Names(Operand operand)
        {
            foreach (Operand item in operand.Items)
                Names(item);
            if (operand.Name.Length == 0)
                return;
            if (_module.Scope.Find(operand.Name) is Variable { Space: Space.Shared } variable && !names.Exists(n => n.Variable == variable))
                names.Add((variable, "/" + variable.Name));
            if (_module.Functions.TryGetValue(operand.Name, out Function? called))
                Visit(called);
        }

        Visit(entry);
        foreach ((Variable variable, string key) in names.Where(n => n.Variable.Size >= 0))
        {
            long align = Math.Max(variable.Alignment, 1);
            _sharedBytes = (_sharedBytes + align - 1) / align * align;
            _sharedStatic = ((_sharedStatic + align - 1) / align * align) + variable.Size;
            _shared[key] = _sharedBytes;
            _sharedVariables.Add(new SharedVariable(variable.Name, _sharedBytes, variable.Size));
            _sharedBytes += variable.Size + SharedGap;
            _sharedBytes = (_sharedBytes + SharedGap - 1) / SharedGap * SharedGap;
        }

        foreach ((Variable variable, string key) in names.Where(n => n.Variable.Size < 0))
        {
            // All of them name the same memory: what the launch asks for.
            _dynamic = true;
            _shared[key] = _sharedBytes;
        }
    }

    private void Inline(Function function)
    {
        foreach (Variable variable in function.Variables.Where(v => v.Space is Space.Local or Space.Param))
        {
            _local = (_local + variable.Alignment - 1) / variable.Alignment * variable.Alignment;
            _instance.Map[variable] = _local;
            _local += (int)variable.Size;
        }

        foreach (Statement statement in function.Body)
        {
            switch (statement)
            {
                case Label label:
                    _items.Add(LabelOf(label));
                    break;
                case InstructionSyntax syntax when syntax.Opcode == "call" || syntax.Opcode.StartsWith("call.", StringComparison.Ordinal):
                    Call(syntax);
                    break;
                case InstructionSyntax syntax:
                    Instruction instruction = Decoder.Decode(syntax, this);
                    if (instruction.Op == Op.Exit && !function.IsEntry && syntax.Opcode.StartsWith("ret", StringComparison.Ordinal))
                    {
                        instruction.Op = Op.Bra;
                        instruction.Labels = [_instance.End!];
                    }

                    _items.Add(instruction);
                    break;
            }
        }
    }

    private object LabelOf(Label label)
    {
        if (!_instance.Map.TryGetValue(label, out object? mapped))
            _instance.Map[label] = mapped = new object();
        return mapped;
    }

    private void Call(InstructionSyntax syntax)
    {
        Operand[] operands = syntax.Operands;
        int at = operands.Length > 0 && operands[0].Kind == OperandKind.List ? 1 : 0;
        if (operands.Length <= at || operands[at].Kind != OperandKind.Name || !_module.Functions.TryGetValue(operands[at].Name, out Function? callee))
            throw new PtxSyntaxException($"call of something unknown, or through a register: '{syntax}'", syntax.Line);
        if (!callee.HasBody)
        {
            if (callee.Name != "__assertfail")
                throw new PtxSyntaxException($"'{callee.Name}' has no body here: '{syntax}'", syntax.Line);
            _items.Add(new Instruction { Op = Op.Trap, Text = "assertion failed: " + syntax, Line = syntax.Line, Source = syntax.Source, Class = InstructionClass.Branch });
            return;
        }

        if (_calls.Contains(callee))
            throw new PtxSyntaxException($"'{callee.Name}' calls itself: recursion is not supported", syntax.Line);
        if (syntax.Guard is not null)
            throw new PtxSyntaxException($"a guarded call is not supported: '{syntax}'", syntax.Line);
        Operand[] returns = at == 1 ? operands[0].Items : [];
        Operand[] arguments = operands.Length > at + 1 ? operands[at + 1].Items : [];
        if (returns.Length != callee.Returns.Count || arguments.Length != callee.Parameters.Count)
            throw new PtxSyntaxException($"'{callee.Name}' takes {callee.Parameters.Count} and gives {callee.Returns.Count} values: '{syntax}'", syntax.Line);
        var inner = new Instance(callee) { End = new object() };
        for (int i = 0; i < arguments.Length; i++)
            Bind(inner, callee.Parameters[i], arguments[i], syntax, copyIn: true);
        var after = new List<Instruction>();
        for (int i = 0; i < returns.Length; i++)
            if (Bind(inner, callee.Returns[i], returns[i], syntax, copyIn: false) is { } move)
                after.Add(move);
        Instance outer = _instance;
        _instance = inner;
        _calls.Push(callee);
        Inline(callee);
        _calls.Pop();
        _instance = outer;
        _items.Add(inner.End!);
        _items.AddRange(after);
    }

    /// <summary>Ties a formal parameter to what the caller passes: the same place in local memory, or a move between registers.</summary>
    private Instruction? Bind(Instance inner, object formal, Operand actual, InstructionSyntax syntax, bool copyIn)
    {
        if (formal is Variable variable)
        {
            if (syntax.Scope.Find(actual.Name) is not Variable passed || !_instance.Map.TryGetValue(passed, out object? place))
                throw new PtxSyntaxException($"'{actual}' is no .param variable: '{syntax}'", syntax.Line);
            if (passed.Size < variable.Size)
                throw new PtxSyntaxException($"'{actual}' has {passed.Size} bytes where {variable.Size} belong: '{syntax}'", syntax.Line);
            inner.Map[variable] = place;
            return null;
        }

        var declared = (RegisterDeclaration)formal;
        Register register = NewRegister(declared.Name, declared.Type);
        inner.Map[declared] = register;
        Value value = actual.Kind == OperandKind.Immediate ? Value.Of(Parser.AsType(actual.Bits, actual.FloatWidth, declared.Type)) : Resolve(actual.Name, 0, false, syntax, out _);
        var move = new Instruction
        {
            Op = Op.Mov,
            Type = declared.Type,
            Destinations = [copyIn ? Value.Of(register) : value],
            Sources = [copyIn ? value : Value.Of(register)],
            Text = syntax.ToString(),
            Line = syntax.Line,
            Source = syntax.Source,
            Class = InstructionClass.Move,
        };
        if (!copyIn)
            return move;
        _items.Add(move);
        return null;
    }

    public Value Resolve(string name, ulong offset, bool negated, InstructionSyntax at, out Space space)
    {
        space = Space.Register;
        object? what = at.Scope.Find(name);
        if (what is RegisterDeclaration declared)
        {
            if (offset != 0)
                throw new PtxSyntaxException($"a register with an offset outside of an address: '{at}'", at.Line);
            if (!_instance.Map.TryGetValue(declared, out object? register))
                _instance.Map[declared] = register = NewRegister(declared.Name, declared.Type);
            return Value.Of((Register)register, negated);
        }

        if (what is Variable variable)
        {
            space = variable.Space;
            if (_parameters.TryGetValue(variable, out int parameter))
                return Value.Of((ulong)parameter + offset);
            if (_instance.Map.TryGetValue(variable, out object? local))
            {
                space = Space.Local;
                return Value.Of((ulong)(int)local + offset);
            }

            if (variable.Space == Space.Shared)
                return Value.Of((ulong)(_shared.TryGetValue(_instance.Function.Name + "/" + name, out long own) ? own : _shared["/" + name]) + offset);
            return Value.Of(_globals(name) + offset);
        }

        if (what is null && name.StartsWith('%') && SpecialType(name) is var type and not PtxType.None)
        {
            if (!_specials.TryGetValue(name, out Register? special))
                _specials[name] = special = NewRegister(name, type);
            return Value.Of(special);
        }

        if (what is null && name == "WARP_SZ")
            return Value.Of(32);
        throw new PtxSyntaxException($"'{name}' is not declared: '{at}'", at.Line);
    }

    private static PtxType SpecialType(string name) => name switch
    {
        "%tid.x" or "%tid.y" or "%tid.z" or "%ntid.x" or "%ntid.y" or "%ntid.z" or "%ctaid.x" or "%ctaid.y" or "%ctaid.z" or "%nctaid.x" or "%nctaid.y" or "%nctaid.z"
            or "%laneid" or "%warpid" or "%nwarpid" or "%smid" or "%nsmid" or "%lanemask_eq" or "%lanemask_le" or "%lanemask_lt" or "%lanemask_ge" or "%lanemask_gt"
            or "%total_smem_size" or "%dynamic_smem_size" => PtxType.U32,
        "%gridid" => PtxType.U64,
        _ => PtxType.None,
    };

    public object Label(string name, InstructionSyntax at)
        => at.Scope.Find(name) is Label label ? LabelOf(label) : throw new PtxSyntaxException($"the label '{name}' is not declared: '{at}'", at.Line);

    public object[] Targets(string name, InstructionSyntax at)
    {
        if (at.Scope.Find(name) is not BranchTargets list)
            throw new PtxSyntaxException($"the list of targets '{name}' is not declared: '{at}'", at.Line);
        return [.. list.Targets.Select(t => list.Scope.Find(t) is Label label ? LabelOf(label) : throw new PtxSyntaxException($"the label '{t}' is not declared", list.Line))];
    }
}
