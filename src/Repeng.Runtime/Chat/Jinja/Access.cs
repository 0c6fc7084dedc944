using System.Numerics;

namespace Repeng.Runtime.Chat.Jinja;

/// <summary>Attributes and items of values, with the rules of Jinja's immutable sandbox.</summary>
internal static class Access
{
    /// <summary><c>value.name</c>: the attribute if there is one (for a dict: its methods), else the item.</summary>
    public static object? Attribute(Renderer r, object? value, string name)
    {
        if (value is Undefined undefined)
            throw undefined.Error();
        if (TryMember(value, name, out object? member))
            return member;
        return value is PyDict dict && dict.TryGetText(name, out object? item) ? item : Undefined.Member(value, name);
    }

    /// <summary><c>value[key]</c>: the item if there is one, else for a text key the attribute.</summary>
    public static object? Item(Renderer r, object? value, object? key)
    {
        switch (value)
        {
            case Undefined undefined:
                throw undefined.Error();
            case PyDict dict when IsHashable(r, key):
                if (dict.TryGet(r, key is Markup keyText ? keyText.Text : key, out object? item))
                    return item;
                break;
            case PySequence sequence when TryIndex(key, sequence.Count, out int index):
                return sequence[index];
            case string text when TryIndex(key, Iteration.KnownLength(r, text)!.Value, out int index):
                return PyText.CharacterAt(text, index);
            case Markup markup when TryIndex(key, Iteration.KnownLength(r, markup)!.Value, out int index):
                return new Markup(PyText.CharacterAt(markup.Text, index));
        }
        string? name = key as string ?? (key as Markup)?.Text;
        return name is not null && TryMember(value, name, out object? member) ? member : Undefined.Member(value, key);
    }

    /// <summary>An item by attribute path ("a.b.0"), as the filters with an <c>attribute</c> argument look it up.</summary>
    public static object? ByPath(Renderer r, object? value, object?[] path, object? fallback)
    {
        r.Step(path.Length);
        foreach (object? part in path)
        {
            value = Item(r, value, part);
            if (fallback is not null && value is Undefined)
                value = fallback;
        }
        return value;
    }

    /// <summary>Splits an attribute path; parts made of digits are indexes.</summary>
    public static object?[] ParsePath(object? attribute) => attribute switch
    {
        null => [],
        string text => [.. text.Split('.').Select(part => part.Length > 0 && part.All(char.IsAsciiDigit) ? PyNumber.ParseInteger(part, 10) : (object?)part)],
        _ => [attribute],
    };

    private static bool IsHashable(Renderer r, object? key)
    {
        if (key is not PyTuple tuple)
            return key is not (PyList or PyDict);
        r.Enter();
        bool hashable = Array.TrueForAll(tuple.Items, item => IsHashable(r, item));
        r.Leave();
        return hashable;
    }

    private static bool TryIndex(object? key, int count, out int index)
    {
        index = 0;
        long? n = key switch { long l => l, bool b => b ? 1 : 0, BigInteger => long.MaxValue, _ => null };
        if (n is not { } value)
            return false;
        if (value < 0)
            value += count;
        if (value < 0 || value >= count)
            return false;
        index = (int)value;
        return true;
    }

    /// <summary>A method or other attribute in Python's sense.</summary>
    private static bool TryMember(object? value, string name, out object? member)
    {
        member = value switch
        {
            string => StringMethods.Find(value, name),
            Markup => StringMethods.Find(value, name),
            PyDict dict => CollectionMethods.OfDict(dict, name),
            PySequence sequence => CollectionMethods.OfSequence(sequence, name),
            Namespace space => space.Attributes.TryGetText(name, out object? attribute) ? attribute : NotFound,
            LoopState loop => loop.TryGet(name, out object? state) ? state : NotFound,
            Macro macro => OfMacro(macro, name),
            Cycler cycler => cycler.Member(name),
            long or bool or BigInteger or double => CollectionMethods.OfNumber(value, name),
            _ => NotFound,
        };
        if (ReferenceEquals(member, NotFound) && name.Length > 4 && name.StartsWith("__", StringComparison.Ordinal)
            && name.EndsWith("__", StringComparison.Ordinal) && value is not (PyDict or Namespace))
            member = Undefined.Unsafe(value, name);
        return !ReferenceEquals(member, NotFound);
    }

    /// <summary>What the member tables give for a name they do not have; null is a value.</summary>
    public static readonly object NotFound = new();

    private static object? OfMacro(Macro macro, string name) => name switch
    {
        "name" => macro.Definition.Name,
        "arguments" => new PyTuple([.. macro.Definition.Parameters]),
        "catch_kwargs" => macro.Definition.UsesKwargs,
        "catch_varargs" => macro.Definition.UsesVarargs,
        "caller" => macro.Definition.UsesCaller,
        _ => NotFound,
    };
}
