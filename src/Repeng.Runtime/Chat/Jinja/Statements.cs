namespace Repeng.Runtime.Chat.Jinja;

/// <summary>How a statement ended: normally, or on its way out of the loop around it.</summary>
internal enum Flow { Normal, Break, Continue }

internal abstract class Statement(int line)
{
    public int Line { get; } = line;

    public abstract Flow Execute(Renderer r);
}

internal sealed class TextOutput(string text, int line) : Statement(line)
{
    public override Flow Execute(Renderer r)
    {
        r.Write(text);
        return Flow.Normal;
    }
}

internal sealed class ValueOutput(Expression value, int line) : Statement(line)
{
    public override Flow Execute(Renderer r)
    {
        r.Write(PyText.Str(r, r.Eval(value)));
        return Flow.Normal;
    }
}

internal sealed class If((Expression Test, Statement[] Body)[] branches, Statement[]? otherwise, int line) : Statement(line)
{
    public override Flow Execute(Renderer r)
    {
        foreach ((Expression test, Statement[] body) in branches)
            if (Operators.Truth(r.Eval(test)))
                return r.Execute(body);
        return otherwise is null ? Flow.Normal : r.Execute(otherwise);
    }
}

internal sealed class For(Expression target, Expression iterable, Expression? test, Statement[] body, Statement[]? otherwise, bool recursive, int line)
    : Statement(line)
{
    public override Flow Execute(Renderer r) => Run(r, r.Scope, r.Eval(iterable), 0);

    private Flow Run(Renderer r, Scope outer, object? values, int depth)
    {
        IEnumerator<object?> items = Iteration.Start(r, values);
        int? length = Iteration.KnownLength(r, values);
        if (test is not null)
        {
            items = Filtered(r, outer, items);
            length = null;
        }
        var loop = new LoopState(items, length, depth, recursive ? Recurse : null);
        bool completed = false;
        while (loop.MoveNext(r))
        {
            r.Scope = new Scope(outer);
            r.Scope.Set("loop", loop);
            r.Assign(target, loop.Current);
            Flow flow = r.Execute(body);
            r.Scope = outer;
            // As in Jinja, a turn counts only when it runs to its end: after nothing but 'continue' and 'break' comes the 'else'.
            completed |= flow == Flow.Normal;
            if (flow == Flow.Break)
                break;
        }
        if (completed || otherwise is null)
            return Flow.Normal;
        r.Scope = new Scope(outer);
        Flow end = r.Execute(otherwise);
        r.Scope = outer;
        return end;

        object? Recurse(Renderer renderer, object? inner)
        {
            Scope here = renderer.Scope;
            renderer.Scope = outer;
            string text = renderer.Capture(() => Run(renderer, outer, inner, depth + 1), out _);
            renderer.Scope = here;
            return text;
        }
    }

    private IEnumerator<object?> Filtered(Renderer r, Scope outer, IEnumerator<object?> items)
    {
        while (items.MoveNext())
        {
            object? item = items.Current;
            Scope here = r.Scope;
            r.Scope = new Scope(outer);
            r.Assign(target, item);
            bool keep = Operators.Truth(r.Eval(test!));
            r.Scope = here;
            if (keep)
                yield return item;
        }
    }
}

internal sealed class LoopControl(Flow flow, int line) : Statement(line)
{
    public override Flow Execute(Renderer r) => flow;
}

internal sealed class Assign(Expression target, Expression value, int line) : Statement(line)
{
    public override Flow Execute(Renderer r)
    {
        r.CheckNamespaces(target);
        r.Assign(target, r.Eval(value));
        return Flow.Normal;
    }
}

/// <summary><c>{% set x %}…{% endset %}</c>: captures what its body renders, through a chain of filters if there is one.</summary>
internal sealed class AssignBlock(Expression target, FilterExpression? filter, Statement[] body, int line) : Statement(line)
{
    public override Flow Execute(Renderer r)
    {
        Scope outer = r.Scope;
        r.Scope = new Scope(outer);
        string text = r.Capture(() => r.Execute(body), out Flow flow);
        if (flow == Flow.Normal)
        {
            object? value = filter is null ? text : filter.ApplyChain(r, text);
            r.Scope = outer;
            r.CheckNamespaces(target);
            r.Assign(target, value);
        }
        r.Scope = outer;
        return flow;
    }
}

internal sealed class FilterBlock(FilterExpression filter, Statement[] body, int line) : Statement(line)
{
    public override Flow Execute(Renderer r)
    {
        Scope outer = r.Scope;
        r.Scope = new Scope(outer);
        string text = r.Capture(() => r.Execute(body), out Flow flow);
        // Jinja joins what the filters give to the text around it as it is, without making it text.
        if (flow == Flow.Normal)
            r.Write(filter.ApplyChain(r, text) switch
            {
                string s => s,
                Markup m => m.Text,
                var other => throw Fault.Type($"a filter block: expected str instance, {TypeNames.Of(other)} found"),
            });
        r.Scope = outer;
        return flow;
    }
}

internal sealed class With((Expression Target, Expression Value)[] bindings, Statement[] body, int line) : Statement(line)
{
    public override Flow Execute(Renderer r)
    {
        Scope outer = r.Scope;
        object?[] values = new object?[bindings.Length];
        for (int i = 0; i < values.Length; i++)
            values[i] = r.Eval(bindings[i].Value);
        r.Scope = new Scope(outer);
        for (int i = 0; i < values.Length; i++)
            r.Assign(bindings[i].Target, values[i]);
        Flow flow = r.Execute(body);
        r.Scope = outer;
        return flow;
    }
}

/// <summary>
/// <c>{% generation %}…{% endgeneration %}</c> marks what the model wrote. It prints its body and nothing else, but like in
/// Hugging Face's engine variables that are set inside stay inside.
/// </summary>
internal sealed class Generation(Statement[] body, int line) : Statement(line)
{
    public override Flow Execute(Renderer r)
    {
        Scope outer = r.Scope;
        r.Scope = new Scope(outer);
        r.Execute(body);
        r.Scope = outer;
        return Flow.Normal;
    }
}

internal sealed class MacroStatement(MacroDefinition definition, int line) : Statement(line)
{
    public override Flow Execute(Renderer r)
    {
        r.Scope.Set(definition.Name!, new Macro(definition, r.Scope));
        return Flow.Normal;
    }
}

/// <summary><c>{% call(args) macro(…) %}…{% endcall %}</c>: hands its body to a macro, which renders it with <c>caller(…)</c>.</summary>
internal sealed class CallBlock(MacroDefinition definition, Call call, int line) : Statement(line)
{
    public override Flow Execute(Renderer r)
    {
        r.Write(PyText.Str(r, call.Invoke(r, new Macro(definition, r.Scope))));
        return Flow.Normal;
    }
}
