namespace Repeng.PtxEmulator.Syntax;

internal sealed partial class Parser
{
    private void FunctionDeclaration()
    {
        int line = Current.Line;
        bool entry = Take().Text == ".entry";
        TryTake(".noreturn");
        var scope = new Scope(_module.Scope);
        var returns = new List<object>();
        if (TryTake('('))
            Parameters(scope, returns);
        string name = Name();
        var function = new Function { Name = name, IsEntry = entry, Line = line };
        function.Returns.AddRange(returns);
        if (TryTake('('))
            Parameters(scope, function.Parameters);
        while (Current.Kind == TokenKind.Directive)
        {
            switch (Take().Text)
            {
                case ".maxntid":
                    function.MaxThreads = Triple() is var most ? most.X * most.Y * most.Z : 0;
                    break;
                case ".reqntid":
                    function.RequiredThreads = Triple();
                    break;
                case ".minnctapersm" or ".maxnctapersm" or ".maxnreg" or ".maxclusterrank":
                    Integer();
                    break;
                case ".noreturn":
                    break;
                case ".pragma":
                    _at--;
                    Debug();
                    break;
                default:
                    _at--;
                    throw new PtxSyntaxException($"unknown directive '{Current.Text}' of {name}", Current.Line);
            }
        }

        if (!TryTake(';'))
        {
            function.HasBody = true;
            Expect('{');
            _source = default;
            Body(function, scope);
        }

        if (_module.Functions.TryGetValue(name, out Function? known) && known.HasBody)
        {
            if (function.HasBody)
                throw new PtxSyntaxException($"'{name}' is defined twice", line);
            return;
        }

        _module.Functions[name] = function;
    }

    private (int X, int Y, int Z) Triple()
    {
        int x = (int)Integer();
        int y = TryTake(',') ? (int)Integer() : 1;
        int z = TryTake(',') ? (int)Integer() : 1;
        return (x, y, z);
    }

    /// <summary><c>.param .u64 .ptr .global .align 4 name, .param .align 4 .b8 name[8])</c></summary>
    private void Parameters(Scope scope, List<object> into)
    {
        if (TryTake(')'))
            return;
        do
        {
            int line = Current.Line;
            Space? space = SpaceOf(Take());
            int alignment = 0;
            if (TryTake(".align"))
                alignment = (int)Integer();
            PtxType type = TypeDirective();
            if (TryTake(".ptr") && SpaceOf(Current) is not null)
                _at++;
            if (TryTake(".align"))
                Integer();
            string name = Name();
            object what;
            if (space == Space.Register)
            {
                what = new RegisterDeclaration(name, type);
            }
            else if (space == Space.Param)
            {
                (long size, bool open) = Array(type.Size());
                if (open)
                    throw new PtxSyntaxException($"the parameter '{name}' has no size (variadic functions are not supported)", line);
                what = new Variable { Name = name, Space = Space.Param, Type = type, Alignment = Math.Max(alignment, type.Size()), Size = size, Line = line };
            }
            else
            {
                throw new PtxSyntaxException($"the parameter '{name}' is neither .param nor .reg", line);
            }

            Declare(scope, name, what, line);
            into.Add(what);
        }
        while (TryTake(','));
        Expect(')');
    }

    private void Body(Function function, Scope scope)
    {
        while (!TryTake('}'))
        {
            Token token = Current;
            if (token.Is('{'))
            {
                _at++;
                Body(function, new Scope(scope));
            }
            else if (token.Is(';'))
            {
                _at++;
            }
            else if (token.Kind == TokenKind.Directive)
            {
                BodyDirective(function, scope);
            }
            else if (token.Kind == TokenKind.Name && _tokens[_at + 1].Is(':'))
            {
                _at += 2;
                LabelOrTargets(function, scope, token);
            }
            else
            {
                function.Body.Add(Instruction(scope));
            }
        }
    }

    private void LabelOrTargets(Function function, Scope scope, Token name)
    {
        if (TryTake(".branchtargets"))
        {
            var targets = new List<string>();
            do
                targets.Add(Name());
            while (TryTake(','));
            Expect(';');
            var list = new BranchTargets(name.Text, [.. targets], scope, name.Line);
            Declare(scope, name.Text, list, name.Line);
            return;
        }

        if (Current.Is(".callprototype") || Current.Is(".calltargets"))
            throw new PtxSyntaxException("indirect calls are not supported", name.Line);
        var label = new Label(name.Text, name.Line);
        Declare(scope, name.Text, label, name.Line);
        function.Body.Add(label);
    }

    private void BodyDirective(Function function, Scope scope)
    {
        Token token = Current;
        if (token.Text is ".loc" or ".file" or ".pragma" or ".section")
        {
            Debug();
        }
        else if (SpaceOf(token) == Space.Register)
        {
            _at++;
            Registers(scope);
        }
        else if (SpaceOf(token) is Space space)
        {
            _at++;
            foreach (Variable variable in Variables(space, external: false))
            {
                Declare(scope, variable.Name, variable, variable.Line);
                function.Variables.Add(variable);
            }
        }
        else
        {
            throw new PtxSyntaxException($"unknown directive '{token.Text}' in {function.Name}", token.Line);
        }
    }

    /// <summary><c>.reg .b32 %r&lt;29&gt;, %x;</c></summary>
    private void Registers(Scope scope)
    {
        if (Current.Is(".v2") || Current.Is(".v4"))
            throw new PtxSyntaxException("vector registers are not supported", Current.Line);
        PtxType type = TypeDirective();
        do
        {
            int line = Current.Line;
            string name = Name();
            if (TryTake('<'))
            {
                ulong count = Integer();
                Expect('>');
                if (count > 1_000_000)
                    throw new PtxSyntaxException($"{count} registers {name}", line);
                for (ulong i = 0; i < count; i++)
                    Declare(scope, name + i, new RegisterDeclaration(name + i, type), line);
            }
            else
            {
                Declare(scope, name, new RegisterDeclaration(name, type), line);
            }
        }
        while (TryTake(','));
        Expect(';');
    }

    private InstructionSyntax Instruction(Scope scope)
    {
        int line = Current.Line;
        string? guard = null;
        bool negated = false;
        if (TryTake('@'))
        {
            negated = TryTake('!');
            guard = Name();
        }

        string opcode = Name();
        var operands = new List<Operand>();
        if (!Current.Is(';'))
        {
            do
                operands.Add(ParseOperand());
            while (TryTake(','));
        }

        if (!TryTake(';'))
            throw Unexpected($"';' after '{opcode}'");
        return new InstructionSyntax(opcode, [.. operands], guard, negated, scope, _source, line);
    }

    private Operand ParseOperand()
    {
        if (TryTake('{'))
        {
            Operand[] items = Items('}');
            return new Operand(OperandKind.Vector) { Items = items };
        }

        if (TryTake('('))
        {
            Operand[] items = Items(')');
            return new Operand(OperandKind.List) { Items = items };
        }

        if (TryTake('['))
        {
            string symbol = Current.Kind == TokenKind.Name ? Name() : "";
            ulong offset = 0;
            if (symbol.Length == 0 || Current.Is('+') || Current.Is('-'))
            {
                TryTake('+');
                offset = Integer();
            }

            Expect(']');
            return new Operand(OperandKind.Address) { Name = symbol, Bits = offset };
        }

        if (TryTake('!'))
            return new Operand(OperandKind.Name) { Name = Name(), Negated = true };
        if (Current.Kind == TokenKind.Name)
        {
            string name = Name();
            if (name == "_")
                return new Operand(OperandKind.Sink) { Second = TryTake('|') ? ParseOperand() : null };
            ulong offset = 0;
            if (TryTake('+') || Current.Is('-'))
                offset = Integer();
            Operand? second = TryTake('|') ? ParseOperand() : null;
            return new Operand(OperandKind.Name) { Name = name, Bits = offset, Second = second };
        }

        bool negative = TryTake('-');
        if (Current.Kind != TokenKind.Number)
            throw Unexpected("an operand");
        Token number = Take();
        ulong bits = number.Bits;
        if (negative)
            bits = number.FloatWidth == 0 ? unchecked((ulong)-(long)bits) : bits ^ (1ul << (number.FloatWidth - 1));
        return new Operand(OperandKind.Immediate) { Bits = bits, FloatWidth = number.FloatWidth };
    }

    private Operand[] Items(char close)
    {
        if (TryTake(close))
            return [];
        var items = new List<Operand>();
        do
            items.Add(ParseOperand());
        while (TryTake(','));
        Expect(close);
        return [.. items];
    }
}
