namespace Repeng.PtxEmulator.Syntax;

/// <summary>Parses PTX 7 and 8 as clang and nvcc write it. What it does not know is an error with its text and line.</summary>
internal sealed partial class Parser
{
    private readonly List<Token> _tokens;
    private readonly ModuleSyntax _module = new();
    private readonly Dictionary<ulong, string> _files = [];
    private int _at;
    private SourcePlace _source;

    private Parser(string text)
    {
        _tokens = new Lexer(text).All();
        // clang writes .file after the functions that name it in .loc.
        for (int i = 0; i + 2 < _tokens.Count; i++)
            if (_tokens[i].Is(".file") && _tokens[i + 1].Kind == TokenKind.Number && _tokens[i + 2].Kind == TokenKind.Text)
                _files[_tokens[i + 1].Bits] = i + 3 < _tokens.Count && _tokens[i + 3].Kind == TokenKind.Text ? _tokens[i + 3].Text : _tokens[i + 2].Text;
    }

    /// <summary>Parses a module.</summary>
    /// <exception cref="PtxSyntaxException">The text is no PTX, or uses something unknown.</exception>
    public static ModuleSyntax Parse(string text)
    {
        var parser = new Parser(text);
        parser.Module();
        return parser._module;
    }

    private Token Current => _tokens[_at];

    private Token Take() => _tokens[_at].Kind == TokenKind.End ? throw Unexpected("more") : _tokens[_at++];

    private bool TryTake(char c)
    {
        if (!Current.Is(c))
            return false;
        _at++;
        return true;
    }

    private bool TryTake(string directive)
    {
        if (!Current.Is(directive))
            return false;
        _at++;
        return true;
    }

    private void Expect(char c)
    {
        if (!TryTake(c))
            throw Unexpected($"'{c}'");
    }

    private string Name() => Current.Kind == TokenKind.Name ? Take().Text : throw Unexpected("a name");

    private ulong Integer()
    {
        bool negative = TryTake('-');
        if (Current.Kind != TokenKind.Number || Current.FloatWidth != 0)
            throw Unexpected("an integer");
        ulong value = Take().Bits;
        return negative ? unchecked((ulong)-(long)value) : value;
    }

    private PtxSyntaxException Unexpected(string wanted) => new($"{wanted} expected, '{Current.Text}' found", Current.Line);

    private void Module()
    {
        while (Current.Kind != TokenKind.End)
        {
            Token token = Current;
            if (token.Kind != TokenKind.Directive)
                throw Unexpected("a directive");
            switch (token.Text)
            {
                case ".version":
                    _at++;
                    _module.Version = Take().Text;
                    if (_module.Version.Split('.')[0] is not ("6" or "7" or "8" or "9"))
                        throw new PtxSyntaxException($".version {_module.Version} is not supported: 6 to 9 are", token.Line);
                    break;
                case ".target":
                    _at++;
                    _module.Target = Name();
                    while (TryTake(','))
                        Name();
                    break;
                case ".address_size":
                    _at++;
                    if (Integer() != 64)
                        throw new PtxSyntaxException("only .address_size 64 is supported", token.Line);
                    break;
                case ".file" or ".section" or ".pragma" or ".loc":
                    Debug();
                    break;
                default:
                    Declaration();
                    break;
            }
        }
    }

    /// <summary>.file, .loc, .section and .pragma; of them only .loc matters.</summary>
    private void Debug()
    {
        Token token = Take();
        switch (token.Text)
        {
            case ".loc":
                ulong file = Integer();
                int line = (int)Integer();
                Integer();
                // Line 0 says "made by the compiler": the last true line tells more.
                if (line > 0 && _files.TryGetValue(file, out string? name))
                    _source = new SourcePlace(name, line);
                while (TryTake(','))
                {
                    if (Name() == "inlined_at")
                    {
                        Integer();
                        Integer();
                        Integer();
                    }
                    else
                    {
                        Name();
                        if (TryTake('+'))
                            Integer();
                    }
                }

                break;
            case ".file":
                Integer();
                while (Current.Kind == TokenKind.Text)
                    Take();
                while (TryTake(','))
                    Integer();
                break;
            case ".pragma":
                do
                {
                    if (Take().Kind != TokenKind.Text)
                        throw Unexpected("a text");
                }
                while (TryTake(','));
                Expect(';');
                break;
            default:
                // .section name { ... }: DWARF.
                Take();
                Expect('{');
                while (!TryTake('}'))
                    Take();
                break;
        }
    }

    private void Declaration()
    {
        bool external = false;
        while (Current.Text is ".visible" or ".extern" or ".weak" or ".common" && Current.Kind == TokenKind.Directive)
            external |= Take().Text == ".extern";
        if (Current.Is(".entry") || Current.Is(".func"))
        {
            FunctionDeclaration();
            return;
        }

        if (SpaceOf(Current) is Space space && space is Space.Shared or Space.Global or Space.Constant)
        {
            _at++;
            foreach (Variable variable in Variables(space, external))
            {
                _module.Variables.Add(variable);
                Declare(_module.Scope, variable.Name, variable, variable.Line);
            }

            return;
        }

        throw new PtxSyntaxException($"unknown directive '{Current.Text}'", Current.Line);
    }

    private static void Declare(Scope scope, string name, object what, int line)
    {
        if (!scope.Declare(name, what) && what is not Variable { External: true })
            throw new PtxSyntaxException($"'{name}' is declared twice", line);
    }

    private static Space? SpaceOf(Token token) => token.Kind != TokenKind.Directive ? null : token.Text switch
    {
        ".shared" => Space.Shared,
        ".global" => Space.Global,
        ".const" => Space.Constant,
        ".local" => Space.Local,
        ".param" => Space.Param,
        ".reg" => Space.Register,
        _ => null,
    };

    /// <summary><c>.align 4 .b8 name[32] = {…}, …;</c> after the space.</summary>
    private List<Variable> Variables(Space space, bool external)
    {
        var made = new List<Variable>();
        int alignment = 0, vector = 1;
        while (true)
        {
            if (TryTake(".align"))
                alignment = (int)Integer();
            else if (TryTake(".v2"))
                vector = 2;
            else if (TryTake(".v4"))
                vector = 4;
            else if (TryTake(".attribute"))
                throw new PtxSyntaxException(".attribute (managed memory) is not supported", Current.Line);
            else
                break;
        }

        PtxType type = TypeDirective();
        do
        {
            int line = Current.Line;
            string name = Name();
            (long size, bool open) = Array(type.Size() * vector);
            var data = new List<(ulong Bits, int FloatWidth)>();
            var relocations = new List<Relocation>();
            if (TryTake('='))
                Initialiser(type, data, relocations);
            if (open && data.Count > 0)
                size = (long)data.Count * type.Size();
            else if (open)
                size = -1;
            byte[]? initial = null;
            if (data.Count > 0)
            {
                if ((long)data.Count * type.Size() > size)
                    throw new PtxSyntaxException($"{data.Count} initial values for the {size} bytes of '{name}'", line);
                initial = new byte[size];
                for (int i = 0; i < data.Count; i++)
                    for (int b = 0; b < type.Size(); b++)
                        initial[(i * type.Size()) + b] = (byte)(AsType(data[i].Bits, data[i].FloatWidth, type) >> (8 * b));
            }

            made.Add(new Variable
            {
                Name = name,
                Space = space,
                Type = type,
                Alignment = Math.Max(alignment, type.Size() * vector),
                Size = size,
                Initial = initial,
                Relocations = relocations,
                External = external,
                Line = line,
            });
        }
        while (TryTake(','));
        Expect(';');
        return made;
    }

    /// <summary>The bits of a literal in a type: a float literal narrows or widens to the type's float.</summary>
    internal static ulong AsType(ulong bits, int floatWidth, PtxType type) => (floatWidth, type) switch
    {
        (64, PtxType.F32) => BitConverter.SingleToUInt32Bits((float)BitConverter.UInt64BitsToDouble(bits)),
        (32, PtxType.F64) => BitConverter.DoubleToUInt64Bits(BitConverter.UInt32BitsToSingle((uint)bits)),
        _ => bits,
    };

    private PtxType TypeDirective()
    {
        PtxType type = Current.Kind == TokenKind.Directive ? PtxTypes.Parse(Current.Text[1..]) : PtxType.None;
        if (type == PtxType.None)
            throw Unexpected("a type");
        _at++;
        return type;
    }

    private (long Size, bool Open) Array(int element)
    {
        long size = element;
        bool open = false;
        while (TryTake('['))
        {
            if (Current.Is(']'))
                open = true;
            else
                size *= (long)Integer();
            Expect(']');
        }

        return (size, open);
    }

    private void Initialiser(PtxType type, List<(ulong, int)> data, List<Relocation> relocations)
    {
        if (TryTake('{'))
        {
            if (TryTake('}'))
                return;
            do
                Initialiser(type, data, relocations);
            while (TryTake(','));
            Expect('}');
            return;
        }

        if (Current.Kind == TokenKind.Name)
        {
            string name = Name();
            bool generic = name == "generic";
            if (generic)
            {
                Expect('(');
                name = Name();
                Expect(')');
            }

            long addend = TryTake('+') ? (long)Integer() : 0;
            if (type.Size() != 8)
                throw new PtxSyntaxException($"the address of '{name}' does not fit a .{type.ToString().ToLowerInvariant()}", Current.Line);
            relocations.Add(new Relocation((long)data.Count * 8, name, addend, generic));
            data.Add((0, 0));
            return;
        }

        bool negative = TryTake('-');
        if (Current.Kind != TokenKind.Number)
            throw Unexpected("an initial value");
        Token number = Take();
        ulong bits = number.Bits;
        if (negative)
            bits = number.FloatWidth == 0 ? unchecked((ulong)-(long)bits) : bits ^ (1ul << (number.FloatWidth - 1));
        data.Add((bits, number.FloatWidth));
    }
}
