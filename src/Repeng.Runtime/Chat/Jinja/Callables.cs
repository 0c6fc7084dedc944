namespace Repeng.Runtime.Chat.Jinja;

/// <summary>The arguments of one call, evaluated.</summary>
internal sealed class CallArguments(object?[] positional, List<KeyValuePair<string, object?>> keywords)
{
    /// <summary>Stands in the result of <see cref="Bind"/> for an argument that was not given.</summary>
    public static readonly object Missing = new();

    public static CallArguments None { get; } = new([], []);

    public object?[] Positional => positional;

    public IReadOnlyList<KeyValuePair<string, object?>> Keywords => keywords;

    public CallArguments With(string name, object? value)
    {
        if (keywords.Exists(pair => pair.Key == name))
            throw Fault.Type($"got multiple values for keyword argument '{name}'");
        return new(positional, [.. keywords, new(name, value)]);
    }

    public CallArguments Skip(int count) => new(positional[count..], keywords);

    /// <summary>Sorts the arguments by parameter, as Python does for a function with these parameters.</summary>
    /// <param name="function">What error messages call it.</param>
    /// <param name="required">How many of the parameters must be given.</param>
    /// <param name="names">The parameters in order; one that starts with <c>/</c> is positional only.</param>
    public object?[] Bind(string function, int required, params ReadOnlySpan<string> names)
    {
        var values = new object?[names.Length];
        Array.Fill(values, Missing);
        if (positional.Length > names.Length)
            throw Fault.Type($"{function} takes at most {names.Length} argument(s), got {positional.Length}");
        positional.CopyTo(values, 0);
        foreach (KeyValuePair<string, object?> pair in keywords)
        {
            int index = names.IndexOf(pair.Key);
            if (index < 0)
                throw Fault.Type($"{function} got an unexpected keyword argument '{pair.Key}'");
            if (!ReferenceEquals(values[index], Missing))
                throw Fault.Type($"{function} got multiple values for argument '{pair.Key}'");
            values[index] = pair.Value;
        }
        for (int i = 0; i < required; i++)
            if (ReferenceEquals(values[i], Missing))
                throw Fault.Type($"{function} is missing argument {i + 1} ('{names[i].TrimStart('/')}')");
        return values;
    }

    public static bool IsMissing(object? value) => ReferenceEquals(value, Missing);

    /// <summary>An optional argument, or a default for one that was not given.</summary>
    public static object? Or(object? value, object? fallback) => IsMissing(value) ? fallback : value;
}

/// <summary>A function of the engine, or a method bound to its value.</summary>
internal sealed class Builtin(string name, Func<Renderer, CallArguments, object?> body, string typeName = "builtin_function_or_method") : ICallable
{
    public string Name => name;

    public string TypeName => typeName;

    public object? Call(Renderer r, CallArguments arguments) => body(r, arguments);
}
