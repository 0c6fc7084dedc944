namespace Repeng.Runtime.Chat.Jinja;

/// <summary>
/// The variables of one scope: the template, a loop turn, a macro call, or a block. What a scope sets is gone when it ends;
/// <c>if</c> has no scope of its own.
/// </summary>
internal sealed class Scope(Scope? parent)
{
    private Dictionary<string, object?>? _variables;

    public void Set(string name, object? value) => (_variables ??= new(StringComparer.Ordinal))[name] = value;

    /// <summary>Looks a variable up, here and in the scopes around, and tells how many were asked.</summary>
    public bool TryGet(string name, out object? value, out int scopes)
    {
        scopes = 0;
        for (Scope? scope = this; scope is not null; scope = scope.Parent)
        {
            scopes++;
            if (scope._variables is not null && scope._variables.TryGetValue(name, out value))
                return true;
        }
        value = null;
        return false;
    }

    private Scope? Parent { get; } = parent;
}
