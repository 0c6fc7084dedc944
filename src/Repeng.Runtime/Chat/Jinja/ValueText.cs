using System.Numerics;
using System.Text;

namespace Repeng.Runtime.Chat.Jinja;

/// <summary>Values as Python's <c>repr</c> prints them: <c>{'a': [1, 2.0, None]}</c>.</summary>
internal static class ValueText
{
    public static string Repr(Renderer r, object? value)
    {
        var text = new StringBuilder();
        Write(r, text, value);
        return r.Charged(text.ToString());
    }

    private static void Write(Renderer r, StringBuilder text, object? value)
    {
        r.Enter();
        switch (value)
        {
            case string s:
                text.Append(PyText.Repr(s));
                break;
            case Markup markup:
                text.Append("Markup(").Append(PyText.Repr(markup.Text)).Append(')');
                break;
            case Undefined:
                text.Append("Undefined");
                break;
            case null or bool or long or BigInteger or double:
                text.Append(PyText.Str(r, value));
                break;
            case PyList list:
                WriteItems(r, text, '[', list.Items, ']');
                break;
            case PyTuple tuple:
                WriteItems(r, text, '(', tuple.Items, tuple.Count == 1 ? "," : "", ')');
                break;
            case PyDict dict:
                WritePairs(r, text, dict);
                break;
            case PyDictView view:
                text.Append(TypeNames.Of(view)).Append('(');
                WriteItems(r, text, '[', view.Items, ']');
                text.Append(')');
                break;
            case PyRange range:
                text.Append($"range({range.Start}, {range.Stop}").Append(range.Step == 1 ? ")" : $", {range.Step})");
                break;
            case Namespace space:
                text.Append("<Namespace ");
                WritePairs(r, text, space.Attributes);
                text.Append('>');
                break;
            case LoopState loop:
                loop.TryGet("length", out object? length);
                text.Append($"<LoopContext {loop.Index0 + 1}/{length}>");
                break;
            case Macro macro:
                text.Append(macro.Definition.Name is { } name ? $"<Macro {PyText.Repr(name)}>" : "<Macro anonymous>");
                break;
            default:
                // Python prints an address here, which no template can rely on.
                text.Append($"<{TypeNames.Of(value)} object>");
                break;
        }
        r.CheckTextLength(text.Length);
        r.Leave();
    }

    private static void WriteItems(Renderer r, StringBuilder text, char open, IEnumerable<object?> items, char close)
        => WriteItems(r, text, open, items, "", close);

    private static void WriteItems(Renderer r, StringBuilder text, char open, IEnumerable<object?> items, string tail, char close)
    {
        text.Append(open);
        string separator = "";
        foreach (object? item in items)
        {
            text.Append(separator);
            Write(r, text, item);
            separator = ", ";
        }
        text.Append(tail).Append(close);
    }

    private static void WritePairs(Renderer r, StringBuilder text, PyDict dict)
    {
        text.Append('{');
        string separator = "";
        foreach ((object? key, object? value) in dict.Pairs)
        {
            text.Append(separator);
            Write(r, text, key);
            text.Append(": ");
            Write(r, text, value);
            separator = ", ";
        }
        text.Append('}');
    }
}
