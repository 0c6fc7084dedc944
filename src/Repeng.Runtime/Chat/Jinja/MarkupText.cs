namespace Repeng.Runtime.Chat.Jinja;

/// <summary>HTML escaping, which only happens where a template asks for it (<c>escape</c>) or joins text to safe text with <c>+</c>.</summary>
internal static class MarkupText
{
    /// <summary>The text of a value with <c>&amp; &lt; &gt; ' "</c> escaped, unless it is safe already.</summary>
    public static string Escape(Renderer r, object? value)
    {
        if (value is Markup markup)
            return markup.Text;
        string text = PyText.Str(r, value);
        r.Scan(text.Length);
        if (text.AsSpan().IndexOfAny("&<>'\"") < 0)
            return text;
        string escaped = text.Replace("&", "&amp;").Replace("<", "&lt;").Replace(">", "&gt;").Replace("'", "&#39;").Replace("\"", "&#34;");
        r.CheckTextLength(escaped.Length);
        return r.Charged(escaped);
    }

    /// <summary>Escapes the texts among the arguments of a <c>%</c> format.</summary>
    public static object? EscapeAll(Renderer r, object? value) => value switch
    {
        PyTuple tuple => new PyTuple([.. tuple.Items.Select(item => item is string ? Escape(r, item) : item)]),
        string => Escape(r, value),
        _ => value,
    };
}
