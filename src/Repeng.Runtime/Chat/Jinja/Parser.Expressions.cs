namespace Repeng.Runtime.Chat.Jinja;

/// <summary>
/// The grammar of expressions, loosest binding first: inline if; or; and; not; comparisons; + -; ~; * / // %; **; unary + -;
/// then attributes, items, calls, filters and tests. Filters bind tighter than all operators: <c>a|trim + b</c> is <c>(a|trim) + b</c>.
/// </summary>
internal sealed partial class Parser
{
    private Expression ReadExpression(bool withConditional = true)
    {
        Enter();
        Expression result = withConditional ? ReadConditional() : ReadOr();
        Leave();
        return result;
    }

    private Expression ReadConditional()
    {
        int line = Current.Line;
        Expression result = ReadOr();
        while (SkipName("if"))
        {
            Expression test = ReadOr();
            Expression? otherwise = SkipName("else") ? ReadExpression() : null;
            result = new Conditional(test, result, otherwise, line);
            line = Current.Line;
        }
        return result;
    }

    private Expression ReadOr()
    {
        Expression left = ReadAnd();
        for (int line = Current.Line; SkipName("or"); line = Current.Line)
            left = new Logic(isAnd: false, left, ReadAnd(), line);
        return left;
    }

    private Expression ReadAnd()
    {
        Expression left = ReadNot();
        for (int line = Current.Line; SkipName("and"); line = Current.Line)
            left = new Logic(isAnd: true, left, ReadNot(), line);
        return left;
    }

    private Expression ReadNot()
    {
        int line = Current.Line;
        if (!SkipName("not"))
            return ReadCompare();
        Enter();
        Expression operand = ReadNot();
        Leave();
        return new Not(operand, line);
    }

    private Expression ReadCompare()
    {
        int line = Current.Line;
        Expression first = ReadSum();
        var rest = new List<(Comparison, Expression)>();
        while (ComparisonHere() is { } comparison)
            rest.Add((comparison, ReadSum()));
        return rest.Count == 0 ? first : new Compare(first, [.. rest], line);
    }

    // Reads the sign of a comparison, if there is one.
    private Comparison? ComparisonHere()
    {
        Comparison? comparison = Current.Kind switch
        {
            TokenKind.Equal => Comparison.Equal,
            TokenKind.NotEqual => Comparison.NotEqual,
            TokenKind.Less => Comparison.Less,
            TokenKind.LessEqual => Comparison.LessEqual,
            TokenKind.Greater => Comparison.Greater,
            TokenKind.GreaterEqual => Comparison.GreaterEqual,
            TokenKind.Name when Current.Text == "in" => Comparison.In,
            TokenKind.Name when Current.Text == "not" && Following.IsName("in") => Comparison.NotIn,
            _ => null,
        };
        if (comparison is not null)
            Next();
        if (comparison == Comparison.NotIn)
            Next();
        return comparison;
    }

    private Expression ReadSum()
    {
        Expression left = ReadConcat();
        while (Current.Kind is TokenKind.Add or TokenKind.Sub)
        {
            Token sign = Next();
            left = new Binary(sign.Kind == TokenKind.Add ? BinaryOperator.Add : BinaryOperator.Sub, left, ReadConcat(), sign.Line);
        }
        return left;
    }

    private Expression ReadConcat()
    {
        int line = Current.Line;
        Expression first = ReadProduct();
        if (Current.Kind != TokenKind.Tilde)
            return first;
        var items = new List<Expression> { first };
        while (Skip(TokenKind.Tilde))
            items.Add(ReadProduct());
        return new Concat([.. items], line);
    }

    private Expression ReadProduct()
    {
        Expression left = ReadPower();
        while (Current.Kind is TokenKind.Mul or TokenKind.Div or TokenKind.FloorDiv or TokenKind.Mod)
        {
            Token sign = Next();
            BinaryOperator op = sign.Kind switch
            {
                TokenKind.Mul => BinaryOperator.Mul,
                TokenKind.Div => BinaryOperator.Div,
                TokenKind.FloorDiv => BinaryOperator.FloorDiv,
                _ => BinaryOperator.Mod,
            };
            left = new Binary(op, left, ReadPower(), sign.Line);
        }
        return left;
    }

    // As in Jinja, and unlike Python: powers group from the left, and the sign binds tighter.
    private Expression ReadPower()
    {
        Expression left = ReadUnary(withFilters: true);
        while (Current.Kind == TokenKind.Pow)
        {
            Token sign = Next();
            left = new Binary(BinaryOperator.Pow, left, ReadUnary(withFilters: true), sign.Line);
        }
        return left;
    }

    private Expression ReadUnary(bool withFilters)
    {
        Expression result;
        Token token = Current;
        if (token.Kind is TokenKind.Sub or TokenKind.Add)
        {
            Next();
            Enter();
            result = new Unary(token.Kind == TokenKind.Sub, ReadUnary(withFilters: false), token.Line);
            Leave();
        }
        else
            result = Primary(withNamespace: false);
        result = ReadPostfix(result);
        return withFilters ? ReadFiltersAndTests(result) : result;
    }

    private Expression Primary(bool withNamespace)
    {
        Token token = Current;
        switch (token.Kind)
        {
            case TokenKind.Name:
                Next();
                return NameOrConstant(token, withNamespace);
            case TokenKind.String:
                Next();
                if (Current.Kind != TokenKind.String)
                    return new Literal(token.Value, token.Line);
                var text = new System.Text.StringBuilder((string)token.Value!);
                while (Current.Kind == TokenKind.String)
                    text.Append((string)Next().Value!);
                return new Literal(text.ToString(), token.Line);
            case TokenKind.Integer or TokenKind.Float:
                Next();
                return new Literal(token.Value, token.Line);
            case TokenKind.LeftParen:
                Next();
                Enter();
                Expression inner = TupleOrExpression(inParentheses: true);
                Leave();
                Expect(TokenKind.RightParen, "')'");
                return inner;
            case TokenKind.LeftBracket:
                return ReadList();
            case TokenKind.LeftBrace:
                return ReadDict();
            default:
                throw Unexpected("an expression");
        }
    }

    private Expression NameOrConstant(Token token, bool withNamespace)
    {
        switch (token.Text)
        {
            case "true" or "True":
                return new Literal(true, token.Line);
            case "false" or "False":
                return new Literal(false, token.Line);
            case "none" or "None":
                return new Literal(null, token.Line);
        }
        if (withNamespace && Skip(TokenKind.Dot))
            return new NamespaceTarget(token.Text, Expect(TokenKind.Name, "the name of an attribute").Text, token.Line);
        if (_macroNames.TryPeek(out HashSet<string>? used))
            used.Add(token.Text);
        return new Name(token.Text, token.Line);
    }

    /// <summary>One expression, or several with commas between them, which make a tuple.</summary>
    private Expression TupleOrExpression(
        bool withConditional = true, string? endName = null, bool inParentheses = false, Func<Expression>? readItem = null)
    {
        int line = Current.Line;
        var items = new List<Expression>();
        bool isTuple = false;
        while (true)
        {
            if (items.Count > 0)
                Expect(TokenKind.Comma, "','");
            bool end = Current.Kind is TokenKind.VariableEnd or TokenKind.BlockEnd or TokenKind.RightParen
                || (endName is not null && Current.IsName(endName));
            if (end)
                break;
            items.Add(readItem is null ? ReadExpression(withConditional) : readItem());
            if (Current.Kind != TokenKind.Comma)
                break;
            isTuple = true;
        }
        if (isTuple || (items.Count == 0 && inParentheses))
            return new TupleExpression([.. items], line);
        return items.Count == 1 ? items[0] : throw Unexpected("an expression");
    }

    private ListExpression ReadList()
    {
        int line = Next().Line;
        var items = new List<Expression>();
        while (Current.Kind != TokenKind.RightBracket)
        {
            if (items.Count > 0)
                Expect(TokenKind.Comma, "',' or ']'");
            if (Current.Kind != TokenKind.RightBracket)
                items.Add(ReadExpression());
        }
        Next();
        return new ListExpression([.. items], line);
    }

    private DictExpression ReadDict()
    {
        int line = Next().Line;
        var pairs = new List<(Expression, Expression)>();
        while (Current.Kind != TokenKind.RightBrace)
        {
            if (pairs.Count > 0)
                Expect(TokenKind.Comma, "',' or '}'");
            if (Current.Kind == TokenKind.RightBrace)
                break;
            Expression key = ReadExpression();
            Expect(TokenKind.Colon, "':'");
            pairs.Add((key, ReadExpression()));
        }
        Next();
        return new DictExpression([.. pairs], line);
    }

    private Expression ReadPostfix(Expression value)
    {
        while (true)
        {
            switch (Current.Kind)
            {
                case TokenKind.Dot:
                    value = ReadAttribute(value);
                    break;
                case TokenKind.LeftBracket:
                    value = ReadSubscript(value);
                    break;
                case TokenKind.LeftParen:
                    int line = Current.Line;
                    value = new Call(value, ReadArguments(), line);
                    break;
                default:
                    return value;
            }
        }
    }

    private Expression ReadFiltersAndTests(Expression value)
    {
        while (true)
        {
            int line = Current.Line;
            if (Current.Kind == TokenKind.Pipe)
                value = ReadFilterChain(startsInline: false, value)!;
            else if (Current.IsName("is"))
                value = ReadTest(value);
            else if (Current.Kind == TokenKind.LeftParen)
                value = new Call(value, ReadArguments(), line);
            else
                return value;
        }
    }

    private Expression ReadAttribute(Expression value)
    {
        int line = Next().Line;
        Token name = Next();
        return name.Kind switch
        {
            TokenKind.Name => new GetAttribute(value, name.Text, line),
            TokenKind.Integer => new GetItem(value, new Literal(name.Value, name.Line), line),
            _ => throw Fault.Syntax($"expected a name or number behind '.', got {Quote(name)}", name.Line),
        };
    }

    private Expression ReadSubscript(Expression value)
    {
        int line = Next().Line;
        Expression? start = Current.Kind == TokenKind.Colon ? null : ReadExpression();
        if (Current.Kind != TokenKind.Colon)
        {
            if (Current.Kind == TokenKind.Comma)
            {
                var items = new List<Expression> { start! };
                while (Skip(TokenKind.Comma))
                    items.Add(ReadExpression());
                start = new TupleExpression([.. items], line);
            }
            Expect(TokenKind.RightBracket, "']'");
            return new GetItem(value, start!, line);
        }
        Next();
        Expression? stop = Current.Kind is TokenKind.Colon or TokenKind.RightBracket ? null : ReadExpression();
        Expression? step = null;
        if (Skip(TokenKind.Colon) && Current.Kind != TokenKind.RightBracket)
            step = ReadExpression();
        Expect(TokenKind.RightBracket, "']'");
        return new GetSlice(value, start, stop, step, line);
    }

    private Arguments ReadArguments()
    {
        Token open = Expect(TokenKind.LeftParen, "'('");
        var positional = new List<Expression>();
        var keywords = new List<(string, Expression)>();
        Expression? star = null, doubleStar = null;
        bool first = true;
        while (Current.Kind != TokenKind.RightParen)
        {
            if (!first)
                Expect(TokenKind.Comma, "',' or ')'");
            first = false;
            if (Current.Kind == TokenKind.RightParen)
                break;
            bool valid;
            if (Skip(TokenKind.Mul))
            {
                valid = star is null && doubleStar is null;
                star = ReadExpression();
            }
            else if (Skip(TokenKind.Pow))
            {
                valid = doubleStar is null;
                doubleStar = ReadExpression();
            }
            else if (Current.Kind == TokenKind.Name && Following.Kind == TokenKind.Assign)
            {
                string name = Next().Text;
                Next();
                valid = doubleStar is null;
                keywords.Add((name, ReadExpression()));
            }
            else
            {
                valid = star is null && doubleStar is null && keywords.Count == 0;
                positional.Add(ReadExpression());
            }
            if (!valid)
                throw Fault.Syntax("the arguments of the call are in no valid order", open.Line);
        }
        Next();
        return positional.Count == 0 && keywords.Count == 0 && star is null && doubleStar is null
            ? Arguments.None
            : new Arguments([.. positional], [.. keywords], star, doubleStar);
    }

    /// <summary>Filters behind a value, or those of a block (<c>{% filter upper|trim %}</c>), which start without one; null when there is none.</summary>
    private FilterExpression? ReadFilterChain(bool startsInline, Expression? value = null)
    {
        Expression? target = value;
        FilterExpression? filter = null;
        while (startsInline || Current.Kind == TokenKind.Pipe)
        {
            if (!startsInline)
                Next();
            startsInline = false;
            Token name = DottedName("filter");
            Arguments arguments = Current.Kind == TokenKind.LeftParen ? ReadArguments() : Arguments.None;
            filter = new FilterExpression(target, name.Text, arguments, name.Line);
            target = filter;
        }
        return filter;
    }

    private Token DottedName(string kind)
    {
        Token name = Expect(TokenKind.Name, $"the name of a {kind}");
        if (Current.Kind != TokenKind.Dot)
            return name;
        var parts = new List<string> { name.Text };
        while (Skip(TokenKind.Dot))
            parts.Add(Expect(TokenKind.Name, $"the name of a {kind}").Text);
        return name with { Text = string.Join('.', parts) };
    }

    private Expression ReadTest(Expression value)
    {
        int line = Next().Line;
        bool negated = SkipName("not");
        Token name = DottedName("test");
        Arguments arguments = Arguments.None;
        if (Current.Kind == TokenKind.LeftParen)
        {
            arguments = ReadArguments();
        }
        else if (Current.Kind is TokenKind.String or TokenKind.Integer or TokenKind.Float or TokenKind.LeftBracket or TokenKind.LeftBrace
            || (Current.Kind == TokenKind.Name && Current.Text is not ("else" or "or" or "and")))
        {
            if (Current.IsName("is"))
                throw Fault.Syntax("tests with 'is' cannot be chained", Current.Line);
            arguments = new Arguments([ReadPostfix(Primary(withNamespace: false))], [], null, null);
        }
        Expression test = new TestExpression(value, name.Text, arguments, line);
        return negated ? new Not(test, line) : test;
    }
}
