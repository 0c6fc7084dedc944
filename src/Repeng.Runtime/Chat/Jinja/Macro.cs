namespace Repeng.Runtime.Chat.Jinja;

/// <summary>What stands between <c>macro</c> and <c>endmacro</c>, or in a <c>call</c> block (which has no name).</summary>
internal sealed record MacroDefinition(
    string? Name, string[] Parameters, Expression[] Defaults, Statement[] Body, bool UsesVarargs, bool UsesKwargs, bool UsesCaller);

/// <summary>A macro together with the scope that it was defined in. Calling it gives the text that its body renders.</summary>
internal sealed class Macro(MacroDefinition definition, Scope closure) : ICallable
{
    public MacroDefinition Definition => definition;

    public string TypeName => "Macro";

    public object? Call(Renderer r, CallArguments arguments)
    {
        string[] names = definition.Parameters;
        object?[] positional = arguments.Positional;
        var keywords = arguments.Keywords.ToDictionary(pair => pair.Key, pair => pair.Value);
        var taken = new HashSet<string>();
        r.Step(names.Length + keywords.Count);
        var scope = new Scope(closure);
        var missing = new List<int>();
        for (int i = 0; i < names.Length; i++)
        {
            if (i < positional.Length)
                scope.Set(names[i], positional[i]);
            else if (keywords.TryGetValue(names[i], out object? value) && taken.Add(names[i]))
                scope.Set(names[i], value);
            else
                missing.Add(i);
        }
        BindRest(arguments, taken, scope);

        Scope outer = r.Scope;
        r.Scope = scope;
        // A default may use the parameters before it.
        foreach (int i in missing)
        {
            int d = i - (names.Length - definition.Defaults.Length);
            scope.Set(names[i], d >= 0
                ? r.Eval(definition.Defaults[d])
                : Undefined.Because($"parameter '{names[i]}' was not provided"));
        }
        string text = r.Capture(() => r.Execute(definition.Body), out _);
        r.Scope = outer;
        return text;
    }

    // The special variables caller, kwargs and varargs; what nothing takes is an error.
    private void BindRest(CallArguments arguments, HashSet<string> taken, Scope scope)
    {
        string title = definition.Name is null ? "the call block" : $"macro '{definition.Name}'";
        int parameters = definition.Parameters.Length;
        List<KeyValuePair<string, object?>> keywords = [.. arguments.Keywords.Where(pair => !taken.Contains(pair.Key))];
        if (definition.UsesCaller)
        {
            int index = keywords.FindIndex(pair => pair.Key == "caller");
            scope.Set("caller", index >= 0 ? keywords[index].Value : Undefined.Because("no caller defined"));
            if (index >= 0)
                keywords.RemoveAt(index);
        }
        if (definition.UsesKwargs)
        {
            var rest = new PyDict();
            foreach (KeyValuePair<string, object?> pair in keywords)
                rest.SetText(pair.Key, pair.Value);
            scope.Set("kwargs", rest);
        }
        else if (keywords.Count > 0)
            throw Fault.Type($"{title} takes no keyword argument '{keywords[0].Key}'");
        object?[] positional = arguments.Positional;
        if (definition.UsesVarargs)
            scope.Set("varargs", new PyTuple(positional.Length > parameters ? positional[parameters..] : []));
        else if (positional.Length > parameters)
            throw Fault.Type($"{title} takes not more than {parameters} argument(s), got {positional.Length}");
    }
}
