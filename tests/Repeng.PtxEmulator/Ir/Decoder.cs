using Repeng.PtxEmulator.Syntax;

namespace Repeng.PtxEmulator.Ir;

/// <summary>What a name in an instruction stands for: a register of this call, a symbol's address, a special register.</summary>
internal interface INames
{
    Value Resolve(string name, ulong offset, bool negated, InstructionSyntax at, out Space space);

    /// <summary>An implicit carry flag, one a kernel.</summary>
    Register Carry { get; }

    object Label(string name, InstructionSyntax at);

    object[] Targets(string name, InstructionSyntax at);
}

/// <summary>Turns an instruction as written into a decoded one; everything that is not understood is an error.</summary>
internal sealed partial class Decoder(InstructionSyntax syntax, INames names)
{
    private readonly Modifiers _m = new(syntax);
    private readonly Instruction _i = new() { Text = syntax.ToString(), Line = syntax.Line, Source = syntax.Source };

    public static Instruction Decode(InstructionSyntax syntax, INames names)
    {
        var decoder = new Decoder(syntax, names);
        decoder.Guard();
        if (!decoder.Arithmetic() && !decoder.Other())
            throw new PtxSyntaxException($"unknown instruction '{syntax}'", syntax.Line);
        decoder._m.End();
        decoder._i.Class = Classes.Of(decoder._i);
        return decoder._i;
    }

    private void Guard()
    {
        if (syntax.Guard is null)
            return;
        _i.Guard = names.Resolve(syntax.Guard, 0, false, syntax, out _).Register is { Width: 1 } guard ? guard : throw _m.Error($"the guard {syntax.Guard} is no predicate");
        _i.GuardNegated = syntax.GuardNegated;
    }

    private void Count(int least, int most)
    {
        int have = syntax.Operands.Length;
        if (have < least || have > most)
            throw _m.Error($"{have} operands where {(least == most ? $"{least}" : $"{least} to {most}")} belong");
    }

    /// <summary>One operand as a value; a literal takes the bits of <paramref name="type"/>.</summary>
    private Value Single(Operand operand, PtxType type)
    {
        switch (operand.Kind)
        {
            case OperandKind.Sink:
                return default;
            case OperandKind.Immediate:
                return Value.Of(Parser.AsType(operand.Bits, operand.FloatWidth, type));
            case OperandKind.Name:
                return names.Resolve(operand.Name, operand.Bits, operand.Negated, syntax, out _);
            default:
                throw _m.Error($"'{operand}' cannot stand here");
        }
    }

    private Value Source(int at, PtxType type) => Checked(Single(syntax.Operands[at], type), type, at);

    private Value Checked(Value value, PtxType type, int at)
    {
        if (value.Kind == ValueKind.Sink)
            throw _m.Error($"operand {at + 1} is missing");
        if (value.Register is { } register && register.Width != Register.WidthOf(type))
            throw _m.Error($"operand {at + 1}, {register.Name}, has {register.Width} bits where {Register.WidthOf(type)} belong");
        return value;
    }

    private Value Destination(Operand operand, PtxType type)
    {
        Value value = Single(operand, type);
        if (value.Kind == ValueKind.Immediate)
            throw _m.Error($"'{operand}' cannot be written");
        if (value.Register is { } register && type != PtxType.None && register.Width != Register.WidthOf(type))
            throw _m.Error($"the destination {register.Name} has {register.Width} bits where {Register.WidthOf(type)} belong");
        return value;
    }

    /// <summary>Elements of a vector or of a single operand. Loads and stores take wider registers than their type.</summary>
    private Value[] Elements(int at, PtxType type, bool destination, bool wider)
    {
        Operand operand = syntax.Operands[at];
        Operand[] items = operand.Kind == OperandKind.Vector ? operand.Items : [operand];
        var values = new Value[items.Length];
        for (int i = 0; i < items.Length; i++)
        {
            values[i] = Single(items[i], type);
            if (values[i].Kind == ValueKind.Immediate && destination)
                throw _m.Error($"'{items[i]}' cannot be written");
            if (values[i].Register is { } register && (wider ? register.Width < Math.Max(type.Size() * 8, 16) : register.Width != Register.WidthOf(type)))
                throw _m.Error($"{register.Name} has {register.Width} bits where {type.Size() * 8} belong");
        }

        return values;
    }

    /// <summary>d, a, b, … all of one type.</summary>
    private bool Plain(Op op, PtxType type, int sources)
    {
        Count(sources + 1, sources + 1);
        _i.Op = op;
        _i.Type = type;
        _i.Destinations = [Destination(syntax.Operands[0], type)];
        _i.Sources = new Value[sources];
        for (int s = 0; s < sources; s++)
            _i.Sources[s] = Source(s + 1, type);
        return true;
    }

    private void Only(PtxType type, params ReadOnlySpan<PtxType> allowed)
    {
        if (!allowed.Contains(type))
            throw _m.Error($"the type .{type.ToString().ToLowerInvariant()} is not known here");
    }

    private (Value Base, long Offset, Space Space) AddressOf(int at)
    {
        Operand operand = syntax.Operands[at];
        if (operand.Kind != OperandKind.Address)
            throw _m.Error($"operand {at + 1} is no address");
        if (operand.Name.Length == 0)
            return (Value.Of(operand.Bits), 0, Space.Generic);
        Value value = names.Resolve(operand.Name, 0, false, syntax, out Space space);
        if (value.Register is { Width: not (32 or 64) } narrow)
            throw _m.Error($"the address {narrow.Name} has {narrow.Width} bits");
        return (value, (long)operand.Bits, space);
    }

    private void TakeAddress(int at)
    {
        (Value value, long offset, Space space) = AddressOf(at);
        _i.Address = value;
        _i.Offset = offset;
        // Parameters of calls and of device functions live in local memory here (see KernelBuilder).
        if (_i.Space == Space.Param && space != Space.Param && (space == Space.Local || names is KernelBuilder { InDeviceFunction: true }))
            _i.Space = Space.Local;
    }
}
