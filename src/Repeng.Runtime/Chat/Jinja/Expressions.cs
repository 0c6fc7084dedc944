using System.Numerics;
using System.Text;

namespace Repeng.Runtime.Chat.Jinja;

/// <summary>An expression of a template; evaluated through <see cref="Renderer.Eval"/>, which counts steps and depth.</summary>
internal abstract class Expression(int line)
{
    public int Line { get; } = line;

    public abstract object? Eval(Renderer r);
}

internal sealed class Literal(object? value, int line) : Expression(line)
{
    public object? Value { get; } = value;

    public override object? Eval(Renderer r) => Value;
}

internal sealed class Name(string id, int line) : Expression(line)
{
    public string Id { get; } = id;

    public override object? Eval(Renderer r) => r.Lookup(Id);
}

/// <summary><c>ns.attr</c> on the left of an assignment.</summary>
internal sealed class NamespaceTarget(string id, string attribute, int line) : Expression(line)
{
    public string Id { get; } = id;

    public string Attribute { get; } = attribute;

    public override object? Eval(Renderer r) => throw Fault.Syntax($"'{Id}.{Attribute}' can only be assigned to here", Line);
}

internal sealed class TupleExpression(Expression[] items, int line) : Expression(line)
{
    public Expression[] Items { get; } = items;

    public override object? Eval(Renderer r) => new PyTuple(r.EvalAll(Items));
}

internal sealed class ListExpression(Expression[] items, int line) : Expression(line)
{
    public override object? Eval(Renderer r) => new PyList([.. r.EvalAll(items)]);
}

internal sealed class DictExpression((Expression Key, Expression Value)[] pairs, int line) : Expression(line)
{
    public override object? Eval(Renderer r)
    {
        var result = new PyDict();
        foreach ((Expression key, Expression value) in pairs)
        {
            object? k = r.Eval(key);
            object? v = r.Eval(value);
            result.Set(r, k, v);
        }
        return result;
    }
}

internal enum BinaryOperator { Add, Sub, Mul, Div, FloorDiv, Mod, Pow }

internal sealed class Binary(BinaryOperator op, Expression left, Expression right, int line) : Expression(line)
{
    public override object? Eval(Renderer r)
    {
        object? a = r.Eval(left);
        object? b = r.Eval(right);
        r.Line = Line;
        if (a is BigInteger || b is BigInteger)
            r.Step(PyNumber.Cost(a) * PyNumber.Cost(b));
        return op switch
        {
            BinaryOperator.Add => Operators.Add(r, a, b),
            BinaryOperator.Sub => Operators.Subtract(a, b),
            BinaryOperator.Mul => Operators.Multiply(r, a, b),
            BinaryOperator.Div => Operators.Divide(a, b),
            BinaryOperator.FloorDiv => Operators.FloorDivide(a, b),
            BinaryOperator.Mod => Operators.Modulo(r, a, b),
            _ => Operators.Power(a, b),
        };
    }
}

internal sealed class Unary(bool negate, Expression operand, int line) : Expression(line)
{
    public override object? Eval(Renderer r) => Operators.Sign(r.Eval(operand), negate);
}

internal sealed class Not(Expression operand, int line) : Expression(line)
{
    public override object? Eval(Renderer r) => !Operators.Truth(r.Eval(operand));
}

/// <summary><c>and</c> / <c>or</c>: gives one of its operands, as in Python.</summary>
internal sealed class Logic(bool isAnd, Expression left, Expression right, int line) : Expression(line)
{
    public override object? Eval(Renderer r)
    {
        object? a = r.Eval(left);
        return Operators.Truth(a) == isAnd ? r.Eval(right) : a;
    }
}

/// <summary><c>a ~ b ~ c</c>: the texts of all operands in a row.</summary>
internal sealed class Concat(Expression[] items, int line) : Expression(line)
{
    public override object? Eval(Renderer r)
    {
        var text = new StringBuilder();
        foreach (Expression item in items)
        {
            string part = PyText.Str(r, r.Eval(item));
            r.CheckTextLength((long)text.Length + part.Length);
            text.Append(part);
        }
        return r.Charged(text.ToString());
    }
}

internal enum Comparison { Equal, NotEqual, Less, LessEqual, Greater, GreaterEqual, In, NotIn }

/// <summary>A chain such as <c>a &lt; b in c</c>: every operand is evaluated at most once.</summary>
internal sealed class Compare(Expression first, (Comparison Op, Expression Operand)[] rest, int line) : Expression(line)
{
    public override object? Eval(Renderer r)
    {
        object? left = r.Eval(first);
        foreach ((Comparison op, Expression operand) in rest)
        {
            object? right = r.Eval(operand);
            r.Line = Line;
            if (!Holds(r, op, left, right))
                return false;
            left = right;
        }
        return true;
    }

    public static bool Holds(Renderer r, Comparison op, object? left, object? right) => op switch
    {
        Comparison.Equal => Operators.Equal(r, left, right),
        Comparison.NotEqual => !Operators.Equal(r, left, right),
        Comparison.In => Operators.Contains(r, right, left),
        Comparison.NotIn => !Operators.Contains(r, right, left),
        _ => Operators.Ordered(r, op, left, right),
    };
}

internal sealed class Conditional(Expression test, Expression then, Expression? otherwise, int line) : Expression(line)
{
    public override object? Eval(Renderer r)
    {
        if (Operators.Truth(r.Eval(test)))
            return r.Eval(then);
        return otherwise is not null
            ? r.Eval(otherwise)
            : Undefined.Because($"the inline 'if' of line {Line} was false and has no 'else'");
    }
}

/// <summary><c>value.name</c>: attributes (methods) come before items.</summary>
internal sealed class GetAttribute(Expression target, string name, int line) : Expression(line)
{
    public override object? Eval(Renderer r)
    {
        object? value = r.Eval(target);
        r.Line = Line;
        return Access.Attribute(r, value, name);
    }
}

/// <summary><c>value[key]</c>: items come before attributes.</summary>
internal sealed class GetItem(Expression target, Expression key, int line) : Expression(line)
{
    public override object? Eval(Renderer r)
    {
        object? value = r.Eval(target);
        object? k = r.Eval(key);
        r.Line = Line;
        return Access.Item(r, value, k);
    }
}

internal sealed class GetSlice(Expression target, Expression? start, Expression? stop, Expression? step, int line) : Expression(line)
{
    public override object? Eval(Renderer r)
    {
        object? value = r.Eval(target);
        object? from = start is null ? null : r.Eval(start);
        object? to = stop is null ? null : r.Eval(stop);
        object? by = step is null ? null : r.Eval(step);
        r.Line = Line;
        return Slicing.Slice(r, value, from, to, by);
    }
}

/// <summary>The arguments as written at a call, a filter or a test.</summary>
internal sealed class Arguments(Expression[] positional, (string Name, Expression Value)[] keywords, Expression? star, Expression? doubleStar)
{
    public static Arguments None { get; } = new([], [], null, null);

    public CallArguments Eval(Renderer r)
    {
        if (positional.Length == 0 && keywords.Length == 0 && star is null && doubleStar is null)
            return CallArguments.None;
        var values = new List<object?>(r.EvalAll(positional));
        if (star is not null)
            values.AddRange(Iteration.ToList(r, r.Eval(star)));
        List<KeyValuePair<string, object?>> named = [];
        foreach ((string name, Expression value) in keywords)
            Add(named, name, r.Eval(value));
        if (doubleStar is not null)
        {
            if (r.Eval(doubleStar) is not PyDict dict)
                throw Fault.Type("the argument after ** must be a mapping");
            foreach ((object? key, object? value) in dict.Pairs)
            {
                r.Step();
                // Every name is compared with those before it.
                r.Step(named.Count >> 3);
                Add(named, key as string ?? throw Fault.Type("keywords must be strings"), value);
            }
        }
        return new CallArguments([.. values], named);
    }

    private static void Add(List<KeyValuePair<string, object?>> named, string name, object? value)
    {
        foreach (KeyValuePair<string, object?> other in named)
            if (other.Key == name)
                throw Fault.Type($"got multiple values for keyword argument '{name}'");
        named.Add(new(name, value));
    }
}

internal sealed class Call(Expression target, Arguments arguments, int line) : Expression(line)
{
    public override object? Eval(Renderer r) => Invoke(r, null);

    /// <param name="r">The renderer.</param>
    /// <param name="caller">The body of a <c>call</c> block, handed over as keyword <c>caller</c>; or null.</param>
    public object? Invoke(Renderer r, ICallable? caller)
    {
        object? callee = r.Eval(target);
        CallArguments values = arguments.Eval(r);
        if (caller is not null)
            values = values.With("caller", caller);
        r.Line = Line;
        if (callee is Undefined undefined)
            throw undefined.Error();
        if (callee is not ICallable callable)
            throw Fault.Type($"'{TypeNames.Of(callee)}' object is not callable");
        return r.Invoke(callable, values);
    }
}

internal sealed class FilterExpression(Expression? target, string name, Arguments arguments, int line) : Expression(line)
{
    public override object? Eval(Renderer r) => Apply(r, r.Eval(target!));

    public object? Apply(Renderer r, object? value)
    {
        // The filter of a filter block stands on the chain before it.
        CallArguments values = arguments.Eval(r);
        r.Line = Line;
        return Filters.Apply(r, name, value, values);
    }

    /// <summary>Applies a chain of filters without a first value (<c>{% filter a|b %}</c>) to a text.</summary>
    public object? ApplyChain(Renderer r, string text)
    {
        r.Enter();
        object? result = Apply(r, target is FilterExpression inner ? inner.ApplyChain(r, text) : text);
        r.Leave();
        return result;
    }
}

internal sealed class TestExpression(Expression target, string name, Arguments arguments, int line) : Expression(line)
{
    public override object? Eval(Renderer r)
    {
        object? value = r.Eval(target);
        CallArguments values = arguments.Eval(r);
        r.Line = Line;
        return Tests.Holds(r, name, value, values);
    }
}
