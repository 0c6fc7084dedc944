using System.Runtime.CompilerServices;

namespace Repeng.Runtime.Chat.Jinja;

/// <summary>Reads a template into statements; expressions are read in the other half of this class.</summary>
internal sealed partial class Parser
{
    private readonly List<Token> _tokens;
    private readonly ChatTemplateLimits _limits;

    // Names used by the bodies of the macros around the current place, innermost last.
    private readonly Stack<HashSet<string>> _macroNames = new();
    private readonly Stack<(string Tag, int Line)> _openTags = new();
    private int _position;
    private int _nesting;
    private int _loops;
    private int _loopVariables;

    private Parser(List<Token> tokens, ChatTemplateLimits limits)
    {
        _tokens = tokens;
        _limits = limits;
    }

    public static Statement[] Parse(string template, ChatTemplateLimits limits)
    {
        if (template.Length > limits.MaxTemplateLength)
            throw Fault.Limit($"the template has {template.Length} characters, more than {nameof(ChatTemplateLimits.MaxTemplateLength)} = {limits.MaxTemplateLength}");
        var parser = new Parser(Lexer.Tokenize(template), limits);
        return parser.Body([]);
    }

    private Token Current => _tokens[_position];

    private Token Following => _tokens[Math.Min(_position + 1, _tokens.Count - 1)];

    private Token Next() => Current.Kind == TokenKind.End ? Current : _tokens[_position++];

    private bool Skip(TokenKind kind)
    {
        if (Current.Kind != kind)
            return false;
        Next();
        return true;
    }

    private bool SkipName(string name)
    {
        if (!Current.IsName(name))
            return false;
        Next();
        return true;
    }

    private Token Expect(TokenKind kind, string what)
        => Current.Kind == kind ? Next() : throw Unexpected(what);

    private void ExpectName(string name)
    {
        if (!SkipName(name))
            throw Unexpected($"'{name}'");
    }

    private Fault Unexpected(string what) => Fault.Syntax($"expected {what}, got {Quote(Current)}", Current.Line);

    private static string Quote(Token token) => token.Kind is TokenKind.End or TokenKind.Data or TokenKind.String or TokenKind.Integer or TokenKind.Float
        ? token.Describe()
        : $"'{token.Describe()}'";

    private void Enter()
    {
        if (++_nesting > _limits.MaxSyntaxNesting)
            throw Fault.Limit($"statements or brackets are nested deeper than {nameof(ChatTemplateLimits.MaxSyntaxNesting)} = {_limits.MaxSyntaxNesting} levels", Current.Line);
        RuntimeHelpers.EnsureSufficientExecutionStack();
    }

    private void Leave() => _nesting--;

    /// <summary>Statements up to one of the given tags, whose name is left to read; up to the end when there are none.</summary>
    private Statement[] Body(string[] endTags)
    {
        Enter();
        var body = new List<Statement>();
        while (true)
        {
            Token token = Current;
            switch (token.Kind)
            {
                case TokenKind.End when endTags.Length == 0:
                    Leave();
                    return [.. body];
                case TokenKind.End:
                    (string tag, int line) = _openTags.Peek();
                    throw Fault.Syntax($"the template ends before '{{% {endTags[^1]} %}}' closes the '{tag}' of line {line}", token.Line);
                case TokenKind.Data:
                    body.Add(new TextOutput(token.Text, token.Line));
                    Next();
                    break;
                case TokenKind.VariableBegin:
                    Next();
                    body.Add(new ValueOutput(TupleOrExpression(), token.Line));
                    Expect(TokenKind.VariableEnd, "'}}'");
                    break;
                default:
                    Next();
                    if (Current.Kind == TokenKind.Name && endTags.Contains(Current.Text))
                    {
                        Leave();
                        return [.. body];
                    }
                    ReadStatement(body);
                    Expect(TokenKind.BlockEnd, "'%}'");
                    break;
            }
        }
    }

    /// <summary>The body of a statement, from behind its head to behind the name of the tag that ends it.</summary>
    private (Statement[] Body, string EndTag) Block(string tag, int line, params string[] endTags)
    {
        Skip(TokenKind.Colon);
        Expect(TokenKind.BlockEnd, "'%}'");
        _openTags.Push((tag, line));
        Statement[] body = Body(endTags);
        _openTags.Pop();
        return (body, Next().Text);
    }

    private void ReadStatement(List<Statement> body)
    {
        Token token = Expect(TokenKind.Name, "the name of a statement");
        int line = token.Line;
        switch (token.Text)
        {
            case "if":
                body.Add(ReadIf(line));
                break;
            case "for":
                body.Add(ReadFor(line));
                break;
            case "set":
                body.Add(ReadSet(line));
                break;
            case "macro":
                body.Add(ReadMacro(line));
                break;
            case "call":
                body.Add(ReadCall(line));
                break;
            case "filter":
                FilterExpression filter = ReadFilterChain(startsInline: true)!;
                body.Add(new FilterBlock(filter, Block("filter", line, "endfilter").Body, line));
                break;
            case "with":
                body.Add(ReadWith(line));
                break;
            case "generation":
                body.Add(new Generation(WithoutLoop(() => Block("generation", line, "endgeneration").Body), line));
                break;
            case "print":
                ReadPrint(body, line);
                break;
            case "break" or "continue":
                if (_loops == 0)
                    throw Fault.Syntax($"'{token.Text}' stands outside of a loop", line);
                body.Add(new LoopControl(token.Text == "break" ? Flow.Break : Flow.Continue, line));
                break;
            case "block" or "extends" or "include" or "import" or "from" or "autoescape":
                throw Fault.Syntax($"the statement '{token.Text}' is not supported in chat templates", line);
            default:
                string expected = _openTags.TryPeek(out (string Tag, int Line) open)
                    ? $"; the innermost open statement is the '{open.Tag}' of line {open.Line}"
                    : "";
                throw Fault.Syntax($"unknown statement '{token.Text}'{expected}", line);
        }
    }

    private If ReadIf(int line)
    {
        var branches = new List<(Expression, Statement[])>();
        while (true)
        {
            Expression test = TupleOrExpression(withConditional: false);
            (Statement[] body, string end) = Block("if", line, "elif", "else", "endif");
            branches.Add((test, body));
            if (end == "elif")
                continue;
            return new If([.. branches], end == "else" ? Block("if", line, "endif").Body : null, line);
        }
    }

    private For ReadFor(int line)
    {
        Expression target = Target(withNamespace: false, endName: "in");
        ExpectName("in");
        Expression iterable = TupleOrExpression(withConditional: false, endName: "recursive");
        Expression? test = SkipName("if") ? ReadExpression() : null;
        bool recursive = SkipName("recursive");
        if (AssignsLoop(target))
            throw Fault.Syntax("cannot assign to the special variable 'loop'", line);
        _loops++;
        _loopVariables++;
        (Statement[] body, string end) = Block("for", line, "endfor", "else");
        _loops--;
        Statement[]? otherwise = end == "else" ? Block("for", line, "endfor").Body : null;
        _loopVariables--;
        return new For(target, iterable, test, body, otherwise, recursive, line);
    }

    private Statement ReadSet(int line)
    {
        Expression target = Target(withNamespace: true, endName: null);
        if (_loopVariables > 0 && AssignsLoop(target))
            throw Fault.Syntax("cannot assign to the special variable 'loop' inside of a loop", line);
        if (Skip(TokenKind.Assign))
            return new Assign(target, TupleOrExpression(), line);
        FilterExpression? filter = ReadFilterChain(startsInline: false);
        return new AssignBlock(target, filter, Block("set", line, "endset").Body, line);
    }

    private MacroStatement ReadMacro(int line)
    {
        string name = Expect(TokenKind.Name, "the name of the macro").Text;
        return new MacroStatement(ReadMacroDefinition(name, "macro", line, ReadSignature), line);
    }

    private CallBlock ReadCall(int line)
    {
        // The signature is read before the call, but belongs to the body.
        Call? call = null;
        MacroDefinition definition = ReadMacroDefinition(null, "call", line, () =>
        {
            (string[], Expression[]) signature = Current.Kind == TokenKind.LeftParen ? ReadSignature() : ([], []);
            int callLine = Current.Line;
            call = ReadExpression() as Call ?? throw Fault.Syntax("expected a call of a macro behind 'call'", callLine);
            return signature;
        });
        return new CallBlock(definition, call!, line);
    }

    private MacroDefinition ReadMacroDefinition(string? name, string tag, int line, Func<(string[] Parameters, Expression[] Defaults)> readHead)
    {
        _macroNames.Push([]);
        (string[] parameters, Expression[] defaults) = readHead();
        Statement[] body = WithoutLoop(() => Block(tag, line, "end" + tag).Body);
        HashSet<string> used = _macroNames.Pop();
        if (_macroNames.TryPeek(out HashSet<string>? outer))
            outer.UnionWith(used);
        bool Uses(string special) => used.Contains(special) && !parameters.Contains(special);
        return new MacroDefinition(name, parameters, defaults, body, Uses("varargs"), Uses("kwargs"), Uses("caller"));
    }

    private (string[] Parameters, Expression[] Defaults) ReadSignature()
    {
        var parameters = new List<string>();
        var seen = new HashSet<string>();
        var defaults = new List<Expression>();
        Expect(TokenKind.LeftParen, "'('");
        while (Current.Kind != TokenKind.RightParen)
        {
            if (parameters.Count > 0)
                Expect(TokenKind.Comma, "','");
            Token parameter = Expect(TokenKind.Name, "the name of a parameter");
            if (!seen.Add(parameter.Text))
                throw Fault.Syntax($"the parameter '{parameter.Text}' is there twice", parameter.Line);
            parameters.Add(parameter.Text);
            if (Skip(TokenKind.Assign))
                defaults.Add(ReadExpression());
            else if (defaults.Count > 0)
                throw Fault.Syntax($"the parameter '{parameter.Text}' without default follows one with default", parameter.Line);
        }
        Next();
        return ([.. parameters], [.. defaults]);
    }

    private With ReadWith(int line)
    {
        var bindings = new List<(Expression, Expression)>();
        while (Current.Kind != TokenKind.BlockEnd)
        {
            if (bindings.Count > 0)
                Expect(TokenKind.Comma, "','");
            Expression target = Target(withNamespace: false, endName: null, withTuple: false);
            Expect(TokenKind.Assign, "'='");
            bindings.Add((target, ReadExpression()));
        }
        return new With([.. bindings], Block("with", line, "endwith").Body, line);
    }

    private void ReadPrint(List<Statement> body, int line)
    {
        bool first = true;
        while (Current.Kind != TokenKind.BlockEnd)
        {
            if (!first)
                Expect(TokenKind.Comma, "','");
            first = false;
            body.Add(new ValueOutput(ReadExpression(), line));
        }
    }

    // The bodies of macros, call blocks and generation blocks are functions: a loop around them cannot be left from inside.
    private T WithoutLoop<T>(Func<T> read)
    {
        int loops = _loops;
        _loops = 0;
        T result = read();
        _loops = loops;
        return result;
    }

    /// <summary>The left side of an assignment: names, or tuples of names.</summary>
    private Expression Target(bool withNamespace, string? endName, bool withTuple = true)
    {
        int line = Current.Line;
        Expression target = withTuple
            ? TupleOrExpression(endName: endName, readItem: () => Primary(withNamespace))
            : Primary(withNamespace);
        return CanAssign(target) ? target : throw Fault.Syntax("cannot assign to this expression", line);
    }

    private static bool CanAssign(Expression target) => target switch
    {
        Name or NamespaceTarget => true,
        TupleExpression tuple => Array.TrueForAll(tuple.Items, CanAssign),
        _ => false,
    };

    private static bool AssignsLoop(Expression target) => target switch
    {
        Name name => name.Id == "loop",
        TupleExpression tuple => Array.Exists(tuple.Items, AssignsLoop),
        _ => false,
    };
}
