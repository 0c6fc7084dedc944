using System.Runtime.CompilerServices;
using System.Text;

namespace Repeng.Runtime.Chat.Jinja;

/// <summary>
/// The state of one rendering: scopes, output, the line at work, and what was spent of the limits. An exception ends the
/// whole rendering, so nothing here is restored on the way out of one.
/// </summary>
internal sealed class Renderer(ChatTemplateLimits limits, DateTime now)
{
    private const int ElementCost = 16;
    private StringBuilder _output = new();
    private long _steps;
    private long _allocated;
    private int _depth;

    /// <summary>Line of the template that is being rendered, for error messages.</summary>
    public int Line { get; set; } = 1;

    public Scope Scope { get; set; } = new(null);

    public ChatTemplateLimits Limits => limits;

    /// <summary>What <c>strftime_now</c> takes for now.</summary>
    public DateTime Now => now;

    public string Render(Statement[] body)
    {
        Execute(body);
        return _output.ToString();
    }

    public object? Eval(Expression expression)
    {
        Enter();
        object? value = expression.Eval(this);
        Leave();
        return value;
    }

    public object?[] EvalAll(Expression[] expressions)
    {
        if (expressions.Length == 0)
            return [];
        var values = new object?[expressions.Length];
        for (int i = 0; i < values.Length; i++)
            values[i] = Eval(expressions[i]);
        ChargeElements(values.Length);
        return values;
    }

    public Flow Execute(Statement[] body)
    {
        Enter();
        Flow flow = Flow.Normal;
        foreach (Statement statement in body)
        {
            Step();
            Line = statement.Line;
            flow = statement.Execute(this);
            if (flow != Flow.Normal)
                break;
        }
        Leave();
        return flow;
    }

    public object? Invoke(ICallable callable, CallArguments arguments)
    {
        Enter();
        object? result = callable.Call(this, arguments);
        Leave();
        return result;
    }

    /// <summary>Runs something and gives back what it wrote instead of printing it.</summary>
    public string Capture(Func<Flow> body, out Flow flow)
    {
        StringBuilder outer = _output;
        _output = new StringBuilder();
        flow = body();
        string text = _output.ToString();
        _output = outer;
        return Charged(text);
    }

    public void Write(string text)
    {
        CheckTextLength((long)_output.Length + text.Length);
        Charge(text.Length);
        _output.Append(text);
    }

    public object? Lookup(string name)
    {
        bool found = Scope.TryGet(name, out object? value, out int scopes);
        Step(scopes >> 2);
        if (found)
            return value;
        return (object?)Functions.Global(name) ?? Undefined.Variable(name);
    }

    /// <summary>Assigns to a name, a namespace attribute, or item by item to a tuple of these.</summary>
    public void Assign(Expression target, object? value)
    {
        switch (target)
        {
            case Name name:
                Scope.Set(name.Id, value);
                break;
            case NamespaceTarget attribute:
                ((Namespace)Lookup(attribute.Id)!).Attributes.SetText(attribute.Attribute, value);
                break;
            case TupleExpression tuple:
                Unpack(tuple.Items, value);
                break;
            default:
                throw Fault.Syntax("cannot assign to this expression", target.Line);
        }
    }

    /// <summary>Before an assignment: every <c>a.b</c> on the left must name a namespace.</summary>
    public void CheckNamespaces(Expression target)
    {
        if (target is NamespaceTarget attribute && Lookup(attribute.Id) is not Namespace)
            throw Fault.Type($"cannot assign to '{attribute.Id}.{attribute.Attribute}': '{attribute.Id}' is no namespace");
        if (target is TupleExpression tuple)
            foreach (Expression item in tuple.Items)
                CheckNamespaces(item);
    }

    private void Unpack(Expression[] targets, object? value)
    {
        List<object?> values = Unpacked(value, targets.Length);
        for (int i = 0; i < targets.Length; i++)
            Assign(targets[i], values[i]);
    }

    /// <summary>The elements of a value that must have exactly that many.</summary>
    public List<object?> Unpacked(object? value, int count)
    {
        if (!Iteration.IsIterable(value))
            throw Fault.Type($"cannot unpack non-iterable {TypeNames.Of(value)} object");
        var values = new List<object?>();
        IEnumerator<object?> items = Iteration.Start(this, value);
        while (values.Count <= count && items.MoveNext())
            values.Add(items.Current);
        if (values.Count < count)
            throw Fault.Type($"not enough values to unpack (expected {count}, got {values.Count})");
        if (values.Count > count)
            throw Fault.Type($"too many values to unpack (expected {count})");
        return values;
    }

    /// <summary>One level deeper; also the backstop against a thread with a small stack.</summary>
    public void Enter()
    {
        Step();
        if (++_depth > limits.MaxDepth)
            throw Fault.Limit($"nesting is deeper than {nameof(ChatTemplateLimits.MaxDepth)} = {limits.MaxDepth} levels");
        RuntimeHelpers.EnsureSufficientExecutionStack();
    }

    public void Leave() => _depth--;

    public void Step(long count = 1)
    {
        if ((_steps += count) > limits.MaxSteps)
            throw Fault.Limit($"rendering takes more than {nameof(ChatTemplateLimits.MaxSteps)} = {limits.MaxSteps} steps");
    }

    /// <summary>Counts reading that many characters, as a search or comparison does.</summary>
    public void Scan(long characters) => Step(characters >> 4);

    public void Charge(long units)
    {
        if ((_allocated += units) > limits.MaxAllocation)
            throw Fault.Limit($"intermediate values take more than {nameof(ChatTemplateLimits.MaxAllocation)} = {limits.MaxAllocation} units");
    }

    public void ChargeElements(long count) => Charge(count * ElementCost);

    /// <summary>Counts the memory of a new text and gives it back.</summary>
    public string Charged(string text)
    {
        Charge(text.Length);
        return text;
    }

    /// <summary>Call before building a text of that length.</summary>
    public void CheckTextLength(long length)
    {
        if (length > limits.MaxTextLength)
            throw Fault.Limit($"a text of {length} characters is longer than {nameof(ChatTemplateLimits.MaxTextLength)} = {limits.MaxTextLength}");
    }
}
