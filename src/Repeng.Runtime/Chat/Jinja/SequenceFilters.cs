using System.Text;

namespace Repeng.Runtime.Chat.Jinja;

/// <summary>Filters on lists and their kin. Like in Jinja, several of them are lazy: they give iterators.</summary>
internal static class SequenceFilters
{
    public static object? First(Renderer r, object? value, CallArguments a)
    {
        a.Bind("first", 0);
        IEnumerator<object?> items = Iteration.Start(r, value);
        return items.MoveNext() ? items.Current : Undefined.Because("no first item, sequence was empty");
    }

    public static object? Last(Renderer r, object? value, CallArguments a)
    {
        a.Bind("last", 0);
        if (value is PyIterator)
            throw Fault.Type($"'{TypeNames.Of(value)}' object is not reversible (apply the filter 'list' first)");
        if (value is PySequence sequence)
            return sequence.Count > 0 ? sequence[sequence.Count - 1] : Undefined.Because("no last item, sequence was empty");
        List<object?> items = Iteration.ToList(r, value);
        return items.Count > 0 ? items[^1] : Undefined.Because("no last item, sequence was empty");
    }

    public static object? Reverse(Renderer r, object? value, CallArguments a)
    {
        a.Bind("reverse", 0);
        if (value is string or Markup)
            return Slicing.Slice(r, value, null, null, -1L);
        if (!Iteration.IsIterable(value))
            throw Fault.Type("reverse: the value must be iterable");
        List<object?> items = Iteration.ToList(r, value);
        items.Reverse();
        // Only an iterator is read into a list; anything else is walked backwards, once.
        return value is PyIterator ? new PyList(items) : new PyIterator(items.GetEnumerator(), TypeNames.Of(value) + "_reverseiterator");
    }

    public static object? Join(Renderer r, object? value, CallArguments a)
    {
        object?[] b = a.Bind("join", 0, "d", "attribute");
        string separator = PyText.Str(r, CallArguments.Or(b[0], ""));
        object? attribute = CallArguments.Or(b[1], null);
        object?[] path = Access.ParsePath(attribute);
        var result = new StringBuilder();
        bool first = true;
        foreach (object? item in Iteration.Over(r, value))
        {
            string text = PyText.Str(r, attribute is null ? item : Access.ByPath(r, item, path, null));
            r.CheckTextLength((long)result.Length + separator.Length + text.Length);
            if (!first)
                result.Append(separator);
            result.Append(text);
            first = false;
        }
        return r.Charged(result.ToString());
    }

    public static object? Map(Renderer r, object? value, CallArguments a)
    {
        return new PyIterator(Run());

        IEnumerator<object?> Run()
        {
            if (!Operators.Truth(value))
                yield break;
            Func<object?, object?> map = Mapping(r, a);
            foreach (object? item in Iteration.Over(r, value))
                yield return map(item);
        }
    }

    private static Func<object?, object?> Mapping(Renderer r, CallArguments a)
    {
        if (a.Positional.Length == 0 && a.Keywords.Any(pair => pair.Key == "attribute"))
        {
            object?[] b = a.Bind("map", 0, "attribute", "default");
            object?[] path = Access.ParsePath(b[0]);
            return item => Access.ByPath(r, item, path, CallArguments.Or(b[1], null));
        }
        if (a.Positional.Length == 0)
            throw Fault.Type("map requires a filter argument");
        string name = NameOf(a.Positional[0], "filter");
        CallArguments rest = a.Skip(1);
        return item => Filters.Apply(r, name, item, rest);
    }

    public static object? Select(Renderer r, object? value, CallArguments a, bool byAttribute, bool keep)
    {
        return new PyIterator(Run());

        IEnumerator<object?> Run()
        {
            if (!Operators.Truth(value))
                yield break;
            Func<object?, bool> test = Selection(r, a, byAttribute);
            foreach (object? item in Iteration.Over(r, value))
                if (test(item) == keep)
                    yield return item;
        }
    }

    private static Func<object?, bool> Selection(Renderer r, CallArguments a, bool byAttribute)
    {
        if (byAttribute && a.Positional.Length == 0)
            throw Fault.Type("missing parameter for attribute name");
        object?[] path = byAttribute ? Access.ParsePath(a.Positional[0]) : [];
        CallArguments rest = a.Skip(byAttribute ? 1 : 0);
        if (rest.Positional.Length == 0)
            return item => Operators.Truth(Access.ByPath(r, item, path, null));
        string name = NameOf(rest.Positional[0], "test");
        CallArguments arguments = rest.Skip(1);
        return item => Tests.Holds(r, name, Access.ByPath(r, item, path, null), arguments);
    }

    private static string NameOf(object? value, string kind) => value switch
    {
        string name => name,
        Undefined undefined => throw new Fault(ChatTemplateErrorKind.Undefined,
            $"{undefined.Error().Message}; the name of a {kind} must stand in quotes"),
        _ => throw Fault.Type($"the name of a {kind} must be a text, not {TypeNames.Of(value)}"),
    };

    public static object? Sort(Renderer r, object? value, CallArguments a)
    {
        object?[] b = a.Bind("sort", 0, "reverse", "case_sensitive", "attribute");
        bool caseSensitive = Operators.Truth(CallArguments.Or(b[1], false));
        object? attribute = CallArguments.Or(b[2], null);
        object?[][] paths = attribute is string text
            ? [.. text.Split(',').Select(Access.ParsePath)]
            : [Access.ParsePath(attribute)];
        List<object?> items = Iteration.ToList(r, value);
        return new PyList(Sorting.Sort(r, items, Key, Direction(b[0])));

        object? Key(object? item) => new PyList([.. paths.Select(path => FoldCase(r, Access.ByPath(r, item, path, null), caseSensitive))]);
    }

    // Python's sorted asks for a number here, where all else takes any value for true or false.
    private static bool Direction(object? reverse) => CallArguments.Or(reverse, false) switch
    {
        bool or long or System.Numerics.BigInteger => Operators.Truth(CallArguments.Or(reverse, false)),
        var other => throw Fault.Type($"'{TypeNames.Of(other)}' object cannot be interpreted as an integer"),
    };

    public static object? DictSort(Renderer r, object? value, CallArguments a)
    {
        object?[] b = a.Bind("dictsort", 0, "case_sensitive", "by", "reverse");
        bool caseSensitive = Operators.Truth(CallArguments.Or(b[0], false));
        string? by = CallArguments.Or(b[1], "key") as string;
        if (by is not ("key" or "value"))
            throw Fault.Type("dictsort: you can only sort by either \"key\" or \"value\"");
        if (value is Undefined undefined)
            throw undefined.Error();
        if (value is not PyDict dict)
            throw Fault.Type($"dictsort: a mapping is needed, not {TypeNames.Of(value)}");
        r.ChargeElements(dict.Count * 2L);
        List<KeyValuePair<object?, object?>> sorted = Sorting.Sort(r, [.. dict.Pairs],
            pair => FoldCase(r, by == "key" ? pair.Key : pair.Value, caseSensitive), Direction(b[2]));
        return new PyList([.. sorted.Select(pair => new PyTuple([pair.Key, pair.Value]))]);
    }

    public static object? Unique(Renderer r, object? value, CallArguments a)
    {
        object?[] b = a.Bind("unique", 0, "case_sensitive", "attribute");
        bool caseSensitive = Operators.Truth(CallArguments.Or(b[0], false));
        object?[] path = Access.ParsePath(CallArguments.Or(b[1], null));
        return new PyIterator(Run());

        IEnumerator<object?> Run()
        {
            var seen = new PyDict();
            foreach (object? item in Iteration.Over(r, value))
            {
                object? key = FoldCase(r, Access.ByPath(r, item, path, null), caseSensitive);
                if (seen.TryGet(r, key, out _))
                    continue;
                seen.Set(r, key, null);
                yield return item;
            }
        }
    }

    public static object? Items(Renderer r, object? value, CallArguments a)
    {
        a.Bind("items", 0);
        return new PyIterator(Run());

        // Lazy like Jinja's: a value that is no mapping is only noticed when the pairs are asked for.
        IEnumerator<object?> Run()
        {
            if (value is Undefined)
                yield break;
            if (value is not PyDict dict)
                throw Fault.Type("can only get item pairs from a mapping");
            foreach (object? pair in new PyDictView(dict, DictViewKind.Items).Items)
                yield return pair;
        }
    }

    /// <summary>Pairs of a value and the elements that have it as their attribute, in the order of these values.</summary>
    public static object? GroupBy(Renderer r, object? value, CallArguments a)
    {
        object?[] b = a.Bind("groupby", 1, "attribute", "default", "case_sensitive");
        object?[] path = Access.ParsePath(b[0]);
        object? fallback = CallArguments.Or(b[1], null);
        bool caseSensitive = Operators.Truth(CallArguments.Or(b[2], false));
        List<object?> items = Iteration.ToList(r, value);
        r.ChargeElements(items.Count * 3L);
        List<(object? Name, object? Key, object? Item)> named = Sorting.Sort(r, [.. items.Select(Named)], x => x.Key, reverse: false);
        var groups = new List<object?>();
        for (int i = 0; i < named.Count;)
        {
            var group = new List<object?>();
            int first = i;
            // A group keeps the case that its first element has.
            for (; i == first || (i < named.Count && Operators.Equal(r, named[first].Key, named[i].Key)); i++)
                group.Add(named[i].Item);
            r.Step(group.Count);
            r.ChargeElements(group.Count + 3L);
            groups.Add(new PyTuple([named[first].Name, new PyList(group)], isGroup: true));
        }
        return new PyList(groups);

        (object? Name, object? Key, object? Item) Named(object? item)
        {
            object? name = Access.ByPath(r, item, path, fallback);
            return (name, FoldCase(r, name, caseSensitive), item);
        }
    }

    public static object? Extreme(Renderer r, object? value, CallArguments a, string name, bool wantLarger)
    {
        object?[] b = a.Bind(name, 0, "case_sensitive", "attribute");
        bool caseSensitive = Operators.Truth(CallArguments.Or(b[0], false));
        object?[] path = Access.ParsePath(CallArguments.Or(b[1], null));
        bool any = false;
        object? best = null, bestKey = null;
        foreach (object? item in Iteration.Over(r, value))
        {
            object? key = FoldCase(r, Access.ByPath(r, item, path, null), caseSensitive);
            if (!any || Operators.Ordered(r, wantLarger ? Comparison.Greater : Comparison.Less, key, bestKey))
                (best, bestKey) = (item, key);
            any = true;
        }
        return any ? best : Undefined.Because("no aggregated item, sequence was empty");
    }

    public static object? Sum(Renderer r, object? value, CallArguments a)
    {
        object?[] b = a.Bind("sum", 0, "attribute", "start");
        object? attribute = CallArguments.Or(b[0], null);
        object?[] path = Access.ParsePath(attribute);
        object? total = CallArguments.Or(b[1], 0L);
        if (total is string)
            throw Fault.Type("sum() can't sum strings [use ''.join(seq) instead]");
        foreach (object? item in Iteration.Over(r, value))
            total = Operators.Add(r, total, attribute is null ? item : Access.ByPath(r, item, path, null));
        return total;
    }

    public static object? Batch(Renderer r, object? value, CallArguments a)
    {
        object?[] b = a.Bind("batch", 1, "linecount", "fill_with");
        object? fill = CallArguments.Or(b[1], null);
        if (!PyNumber.IsInteger(b[0]))
            throw Fault.Type("batch: the number of elements must be an integer");
        long size = PyNumber.Clamp(b[0]!);
        return new PyIterator(Run());

        IEnumerator<object?> Run()
        {
            var batch = new List<object?>();
            foreach (object? item in Iteration.Over(r, value))
            {
                if (batch.Count == size)
                {
                    yield return new PyList(batch);
                    batch = [];
                }
                r.ChargeElements(1);
                batch.Add(item);
            }
            if (batch.Count == 0)
                yield break;
            for (; fill is not null && batch.Count < size; batch.Add(fill))
                r.ChargeElements(1);
            yield return new PyList(batch);
        }
    }

    public static object? Slice(Renderer r, object? value, CallArguments a)
    {
        object?[] b = a.Bind("slice", 1, "slices", "fill_with");
        object? fill = CallArguments.Or(b[1], null);
        if (!PyNumber.IsInteger(b[0]))
            throw Fault.Type("slice: the number of slices must be an integer");
        long slices = PyNumber.Clamp(b[0]!);
        return new PyIterator(Run());

        IEnumerator<object?> Run()
        {
            List<object?> items = Iteration.ToList(r, value);
            if (slices == 0)
                throw Fault.Type("slice: integer division or modulo by zero");
            int from = 0;
            for (long i = 0; i < slices; i++)
            {
                r.Step();
                bool longer = i < items.Count % slices;
                int count = (int)(items.Count / slices) + (longer ? 1 : 0);
                List<object?> slice = items.GetRange(from, count);
                if (fill is not null && !longer)
                    slice.Add(fill);
                from += count;
                r.ChargeElements(slice.Count);
                yield return new PyList(slice);
            }
        }
    }

    private static object? FoldCase(Renderer r, object? value, bool caseSensitive)
    {
        if (caseSensitive || value is not (string or Markup))
            return value;
        string text = PyText.Str(r, value);
        r.Step(text.Length);
        return r.Charged(PyCase.Lower(text));
    }
}
