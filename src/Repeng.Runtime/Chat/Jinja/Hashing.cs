using System.Numerics;

namespace Repeng.Runtime.Chat.Jinja;

/// <summary>Hashes of dict keys; equal values (1, 1.0 and true; a text and its safe twin) hash alike.</summary>
internal static class Hashing
{
    /// <summary>Counts what hashing a key costs, and refuses keys that Python cannot hash.</summary>
    public static void Check(Renderer r, object? key)
    {
        switch (key)
        {
            case string text:
                r.Scan(text.Length);
                break;
            case PyTuple tuple:
                r.Enter();
                foreach (object? item in tuple.Items)
                    Check(r, item);
                r.Leave();
                break;
            case PyList or PyDict or PyDictView { Kind: not DictViewKind.Values }:
                throw Fault.Type($"unhashable type: '{TypeNames.Of(key)}'");
        }
    }

    public static int Of(object? key) => key switch
    {
        null => 0,
        bool b => HashCode.Combine(b ? 1L : 0L),
        long n => HashCode.Combine(n),
        BigInteger n => n.GetHashCode(),
        double d => OfDouble(d),
        string s => s.GetHashCode(),
        Markup m => m.Text.GetHashCode(),
        Undefined => 1,
        PyTuple tuple => OfTuple(tuple),
        PyRange range => HashCode.Combine(range.Count, range.Count > 0 ? range.Start : 0, range.Count > 1 ? range.Step : 0),
        _ => System.Runtime.CompilerServices.RuntimeHelpers.GetHashCode(key),
    };

    private static int OfDouble(double d)
    {
        if (Math.Floor(d) != d || double.IsInfinity(d))
            return d.GetHashCode();
        return Of(PyNumber.Normalize(new BigInteger(d)));
    }

    private static int OfTuple(PyTuple tuple)
    {
        var hash = new HashCode();
        foreach (object? item in tuple.Items)
            hash.Add(Of(item));
        return hash.ToHashCode();
    }
}
