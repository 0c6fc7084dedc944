namespace Repeng.Runtime.Chat.Jinja;

/// <summary>
/// The variables of one scope: the template, a loop turn, a macro call, or a block. What a scope sets is gone when it ends;
/// <c>if</c> has no scope of its own.
/// </summary>
internal sealed class Scope(Scope? parent)
{
    private Dictionary<string, object?>? _variables;

    public void Set(string name, object? value) => (_variables ??= new(StringComparer.Ordinal))[name] = value;

    public bool TryGet(string name, out object? value)
    {
        for (Scope? scope = this; scope is not null; scope = scope.Parent)
            if (scope._variables is not null && scope._variables.TryGetValue(name, out value))
                return true;
        value = null;
        return false;
    }

    private Scope? Parent { get; } = parent;
}
