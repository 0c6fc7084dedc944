using System.Globalization;
using System.Text;

namespace Repeng.Runtime.Chat.Jinja;

/// <summary>
/// The filter <c>wordwrap</c>: every line of a text is wrapped by the rules of Python's <c>textwrap</c>. It is cut into chunks
/// between which a line may break, and lines take as many chunks as fit. Widths count code points.
/// </summary>
internal sealed class WordWrap
{
    private readonly Renderer _r;
    private readonly int[] _text;
    // How many of the code points before each place are no whitespace.
    private readonly int[] _visible;
    private readonly List<(int Start, int End)> _chunks = [];

    public static object? Filter(Renderer r, object? value, CallArguments a)
    {
        object?[] b = a.Bind("wordwrap", 0, "width", "break_long_words", "wrapstring", "break_on_hyphens");
        object? width = CallArguments.Or(b[0], 79L), hyphens = CallArguments.Or(b[3], true);
        bool breakLong = Operators.Truth(CallArguments.Or(b[1], true));
        object? between = CallArguments.Or(b[2], null) ?? "\n";
        if (value is Undefined undefined)
            throw undefined.Error();
        string text = value as string ?? (value as Markup)?.Text ?? throw Fault.Type($"wordwrap: a text is needed, not {TypeNames.Of(value)}");
        if (!PyNumber.IsInteger(width))
            throw Fault.Type($"wordwrap: the width must be an integer, not {TypeNames.Of(width)}");
        if (between is not (string or Markup))
            throw Fault.Type($"wordwrap: the wrapstring must be a text, not {TypeNames.Of(between)}");
        string separator = PyText.Str(r, between);
        r.Charge(text.Length);
        var result = new StringBuilder();
        int paragraph = 0;
        foreach (string line in PyText.Lines(text, keepEnds: false))
        {
            if (paragraph++ > 0)
                result.Append(separator);
            int count = 0;
            foreach (string wrapped in new WordWrap(r, line, hyphens is true).Lines(PyNumber.Clamp(width!), breakLong, Operators.Truth(hyphens)))
            {
                if (count++ > 0)
                    result.Append(separator);
                // A safe text that joins others makes them safe.
                result.Append(between is Markup ? MarkupText.Escape(r, wrapped) : wrapped);
                r.CheckTextLength(result.Length);
            }
            r.CheckTextLength(result.Length);
        }
        string all = r.Charged(result.ToString());
        return between is Markup ? new Markup(all) : all;
    }

    private WordWrap(Renderer r, string line, bool cutAtHyphens)
    {
        _r = r;
        // Two integers for each character, which are two characters long.
        r.Step(line.Length);
        r.Charge(line.Length * 4L);
        _text = new int[PyText.Length(line)];
        _visible = new int[_text.Length + 1];
        for (int i = 0, at = 0; at < _text.Length; i++, at++)
        {
            bool pair = i + 1 < line.Length && char.IsSurrogatePair(line[i], line[i + 1]);
            _visible[at + 1] = _visible[at] + (PyText.IsSpace(line[i]) ? 0 : 1);
            _text[at] = pair ? char.ConvertToUtf32(line[i], line[++i]) : line[i];
        }
        for (int start = 0, end; start < _text.Length; start = end)
        {
            end = ChunkEnd(start, cutAtHyphens);
            r.ChargeElements(1);
            _chunks.Add((start, end));
        }
    }

    private IEnumerable<string> Lines(long width, bool breakLong, bool breakAtHyphens)
    {
        if (width <= 0)
            throw Fault.Type($"wordwrap: invalid width {width} (must be > 0)");
        bool any = false;
        for (int i = 0; i < _chunks.Count;)
        {
            _r.Step();
            if (any && IsBlank(_chunks[i].Start, _chunks[i].End) && ++i == _chunks.Count)
                break;
            int first = i, from = _chunks[i].Start, last = from, to = from;
            for (; i < _chunks.Count && _chunks[i].End - from <= width; i++)
                (last, to) = _chunks[i];
            bool empty = i == first;
            if (i < _chunks.Count && _chunks[i].End - _chunks[i].Start > width && (breakLong || empty))
            {
                // The rest of the line may be of length 0; as in Python, the whitespace before it then stays.
                last = to;
                to = breakLong ? Break(_chunks[i], to + (int)(width - (to - from)), breakAtHyphens) : _chunks[i].End;
                if (to == _chunks[i].End)
                    i++;
                else
                    _chunks[i] = (to, _chunks[i].End);
                empty = false;
            }
            // Whitespace at the end of a line goes, and a line that is nothing else.
            if (!empty && IsBlank(last, to))
            {
                to = last;
                empty = last == from;
            }
            if (empty)
                continue;
            any = true;
            yield return _r.Charged(Text(from, to));
        }
    }

    /// <summary>Where to break a chunk that is too long: behind its last hyphen before the end of the line if something else stands before that.</summary>
    private int Break((int Start, int End) chunk, int end, bool atHyphens)
    {
        int hyphen = atHyphens ? Array.LastIndexOf(_text, '-', end - 1, end - chunk.Start) : -1;
        return hyphen > chunk.Start && _text.AsSpan(chunk.Start, hyphen - chunk.Start).ContainsAnyExcept('-') ? hyphen + 1 : end;
    }

    /// <summary>Chunks are whitespace, words, parts of hyphenated words with their hyphen, and dashes of two or more hyphens between words.</summary>
    private int ChunkEnd(int start, bool cutAtHyphens)
    {
        int end = start;
        if (IsGap(start))
        {
            while (IsGap(end))
                end++;
            return end;
        }
        if (cutAtHyphens && DashEnd(start) is var dash and > 0)
            return dash;
        for (end = start + 1; end < _text.Length && !IsGap(end); end++)
        {
            if (!cutAtHyphens || _text[end] != '-')
                continue;
            if (DashEnd(end) > 0)
                return end;
            bool behind = IsLetter(end - 1) && (IsLetter(end - 2) || (At(end - 2) == '-' && IsLetter(end - 3)));
            bool before = IsLetter(end + 1) && (IsLetter(end + 2) || (At(end + 2) == '-' && IsLetter(end + 3)));
            if (behind && before)
                return end + 1;
        }
        return end;
    }

    /// <summary>The end of two or more hyphens from here on between a word (or its punctuation) and a word; else 0.</summary>
    private int DashEnd(int start)
    {
        if (At(start) != '-' || !(PyText.IsWord(At(start - 1)) || At(start - 1) is '!' or '"' or '\'' or '&' or '.' or ',' or '?'))
            return 0;
        int end = start;
        while (At(end) == '-')
            end++;
        return end - start > 1 && PyText.IsWord(At(end)) ? end : 0;
    }

    // A code point that is in no class stands for what is outside of the text.
    private int At(int i) => i >= 0 && i < _text.Length ? _text[i] : 0;

    private bool IsLetter(int i) => PyText.IsWord(At(i)) && CharUnicodeInfo.GetUnicodeCategory(At(i)) != UnicodeCategory.DecimalDigitNumber;

    // Lines only break at the blanks of ASCII, though the ends of lines lose any whitespace.
    private bool IsGap(int i) => At(i) is ' ' or (>= '\t' and <= '\r');

    private bool IsBlank(int start, int end) => _visible[start] == _visible[end];

    private string Text(int start, int end)
    {
        var text = new StringBuilder(end - start);
        for (int i = start; i < end; i++)
        {
            if (_text[i] > char.MaxValue)
                text.Append(char.ConvertFromUtf32(_text[i]));
            else
                text.Append((char)_text[i]);
        }
        return text.ToString();
    }
}
