namespace Repeng.Runtime.Chat.Jinja;

/// <summary>Walking over values as Python's <c>iter</c> does; every element counts as one step.</summary>
internal static class Iteration
{
    public static bool IsIterable(object? value)
        => value is string or Markup or PySequence or PyDict or PyDictView or PyIterator or Undefined;

    /// <summary>The elements, from the start; for an iterator, those that are left.</summary>
    public static IEnumerator<object?> Start(Renderer r, object? value)
    {
        IEnumerator<object?> items = value switch
        {
            string text => PyText.Characters(text).GetEnumerator(),
            Markup markup => PyText.Characters(markup.Text).GetEnumerator(),
            PyList list => list.Items.GetEnumerator(),
            PySequence sequence => Elements(sequence),
            PyDict dict => dict.Keys.GetEnumerator(),
            PyDictView view => view.Items.GetEnumerator(),
            PyIterator iterator => iterator.Items,
            Undefined => Enumerable.Empty<object?>().GetEnumerator(),
            _ => throw Fault.Type($"'{TypeNames.Of(value)}' object is not iterable"),
        };
        return Counted(r, items);
    }

    public static IEnumerable<object?> Over(Renderer r, object? value)
    {
        IEnumerator<object?> items = Start(r, value);
        while (items.MoveNext())
            yield return items.Current;
    }

    public static List<object?> ToList(Renderer r, object? value)
    {
        var result = new List<object?>();
        foreach (object? item in Over(r, value))
        {
            r.ChargeElements(1);
            result.Add(item);
        }
        return result;
    }

    /// <summary>Python's <c>len</c>, or null for values that have none.</summary>
    public static int? KnownLength(Renderer r, object? value) => value switch
    {
        string text => TextLength(r, text),
        Markup markup => TextLength(r, markup.Text),
        PySequence sequence => sequence.Count,
        PyDict dict => dict.Count,
        PyDictView view => view.Dict.Count,
        Undefined => 0,
        _ => null,
    };

    private static int TextLength(Renderer r, string text)
    {
        r.Scan(text.Length);
        return PyText.Length(text);
    }

    private static IEnumerator<object?> Elements(PySequence sequence)
    {
        for (int i = 0; i < sequence.Count; i++)
            yield return sequence[i];
    }

    private static IEnumerator<object?> Counted(Renderer r, IEnumerator<object?> items)
    {
        while (true)
        {
            // Iterators can be stacked on iterators without end, so each element is a level of its own.
            r.Enter();
            bool any = items.MoveNext();
            r.Leave();
            if (!any)
                yield break;
            yield return items.Current;
        }
    }
}
