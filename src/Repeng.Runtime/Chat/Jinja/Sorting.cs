namespace Repeng.Runtime.Chat.Jinja;

/// <summary>Stable sorting by keys that may have no order, in which case it is an error.</summary>
internal static class Sorting
{
    /// <summary>Python's <c>sorted(items, key=…, reverse=…)</c>: equal elements keep their order, also when reversed.</summary>
    public static List<T> Sort<T>(Renderer r, List<T> items, Func<T, object?> key, bool reverse)
    {
        var keys = new object?[items.Count];
        for (int i = 0; i < keys.Length; i++)
            keys[i] = key(items[i]);
        int[] order = [.. Enumerable.Range(0, keys.Length)];
        int[] scratch = new int[order.Length];
        r.ChargeElements(order.Length);
        MergeSort(order, scratch, 0, order.Length, (x, y) =>
        {
            r.Step();
            // Python only ever asks "less than"; both directions are asked here so that equal elements are seen as such.
            return reverse ? Operators.Order(r, keys[y], keys[x], "<") : Operators.Order(r, keys[x], keys[y], "<");
        });
        return [.. order.Select(i => items[i])];
    }

    // A merge sort of our own: it is stable, and lets errors of the comparison through as they are.
    private static void MergeSort(int[] order, int[] scratch, int from, int to, Func<int, int, int> compare)
    {
        if (to - from < 2)
            return;
        int middle = (from + to) / 2;
        MergeSort(order, scratch, from, middle, compare);
        MergeSort(order, scratch, middle, to, compare);
        int left = from, right = middle;
        for (int i = from; i < to; i++)
        {
            bool takeLeft = right >= to || (left < middle && compare(order[left], order[right]) <= 0);
            scratch[i] = takeLeft ? order[left++] : order[right++];
        }
        Array.Copy(scratch, from, order, from, to - from);
    }
}
