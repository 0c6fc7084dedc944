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
        List<KeyValuePair<string, object?>> keywords = [.. arguments.Keywords];
        var scope = new Scope(closure);
        int given = Math.Min(positional.Length, names.Length);
        var missing = new List<int>();
        for (int i = 0; i < names.Length; i++)
        {
            if (i < given)
                scope.Set(names[i], positional[i]);
            else if (Take(keywords, names[i], out object? value))
                scope.Set(names[i], value);
            else
                missing.Add(i);
        }
        BindRest(names, positional, keywords, scope);

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

    private void BindRest(string[] names, object?[] positional, List<KeyValuePair<string, object?>> keywords, Scope scope)
    {
        string title = definition.Name is null ? "the call block" : $"macro '{definition.Name}'";
        if (definition.UsesCaller && !names.Contains("caller"))
            scope.Set("caller", Take(keywords, "caller", out object? caller) ? caller : Undefined.Because("no caller defined"));
        if (definition.UsesKwargs)
        {
            var rest = new PyDict();
            foreach (KeyValuePair<string, object?> pair in keywords)
                rest.SetText(pair.Key, pair.Value);
            scope.Set("kwargs", rest);
        }
        else if (keywords.Count > 0)
            throw Fault.Type($"{title} takes no keyword argument '{keywords[0].Key}'");
        if (definition.UsesVarargs)
            scope.Set("varargs", new PyTuple(positional.Length > names.Length ? positional[names.Length..] : []));
        else if (positional.Length > names.Length)
            throw Fault.Type($"{title} takes not more than {names.Length} argument(s), got {positional.Length}");
    }

    private static bool Take(List<KeyValuePair<string, object?>> keywords, string name, out object? value)
    {
        int index = keywords.FindIndex(pair => pair.Key == name);
        value = index < 0 ? null : keywords[index].Value;
        if (index >= 0)
            keywords.RemoveAt(index);
        return index >= 0;
    }
}
