using System.Globalization;
using System.Text;

namespace Repeng.Runtime.Chat.Jinja;

/// <summary>
/// Splits a template into tokens the way Jinja does with <c>trim_blocks</c> and <c>lstrip_blocks</c>: one newline after a
/// statement or comment is dropped, blanks between the start of a line and a statement or comment are dropped,
/// <c>-</c> strips all whitespace on its side, <c>+</c> keeps it, and one newline at the end of the template is dropped.
/// </summary>
internal sealed class Lexer
{
    private readonly string _source;
    private readonly List<Token> _tokens = [];
    private readonly Stack<char> _open = new();
    private int _position;
    private int _line = 1;
    private bool _lineStarting = true;

    private Lexer(string source) => _source = source;

    /// <summary>The tokens of a template, closed by one of kind <see cref="TokenKind.End"/>.</summary>
    public static List<Token> Tokenize(string template)
    {
        string source = template.Replace("\r\n", "\n").Replace('\r', '\n');
        if (source.EndsWith('\n'))
            source = source[..^1];
        var lexer = new Lexer(source);
        lexer.ReadText();
        lexer._tokens.Add(new Token(TokenKind.End, "", null, lexer._line));
        return lexer._tokens;
    }

    private void ReadText()
    {
        while (_position < _source.Length)
        {
            int tag = NextTag(_position);
            if (tag < 0)
            {
                AddData(_source[_position..]);
                _position = _source.Length;
                return;
            }
            string text = _source[_position..tag];
            char kind = _source[tag + 1];
            char sign = SignAt(tag + 2);
            int newlines = CountNewlines(text);
            AddData(StripBefore(text, sign, isVariable: kind == '{'));
            _line += newlines;
            int rawEnd = kind == '%' ? RawBegin(tag, sign) : -1;
            if (rawEnd >= 0)
            {
                Advance(tag, rawEnd);
                ReadRaw();
                continue;
            }
            int inside = tag + 2 + (sign == '\0' ? 0 : 1);
            Advance(tag, inside);
            switch (kind)
            {
                case '#':
                    SkipComment();
                    break;
                case '{':
                    _tokens.Add(new Token(TokenKind.VariableBegin, "{{", null, _line));
                    ReadTag("}}", TokenKind.VariableEnd);
                    break;
                default:
                    _tokens.Add(new Token(TokenKind.BlockBegin, "{%", null, _line));
                    ReadTag("%}", TokenKind.BlockEnd);
                    break;
            }
        }
    }

    private int NextTag(int from)
    {
        while (true)
        {
            int brace = _source.IndexOf('{', from);
            if (brace < 0 || brace + 1 >= _source.Length)
                return -1;
            if (_source[brace + 1] is '%' or '{' or '#')
                return brace;
            from = brace + 1;
        }
    }

    private char SignAt(int position)
        => position < _source.Length && _source[position] is '-' or '+' ? _source[position] : '\0';

    // The text before a tag: "-" strips it all, otherwise blanks at the start of the tag's own line go (but not before "{{").
    private string StripBefore(string text, char sign, bool isVariable)
    {
        if (sign == '-')
            return PyText.StripEnd(text);
        if (sign == '+' || isVariable)
            return text;
        int lineStart = text.LastIndexOf('\n') + 1;
        if (lineStart == 0 && !_lineStarting)
            return text;
        return PyText.IsBlank(text.AsSpan(lineStart)) ? text[..lineStart] : text;
    }

    private void AddData(string text)
    {
        if (text.Length > 0)
            _tokens.Add(new Token(TokenKind.Data, text, null, _line));
    }

    // Moves on over text that is no token, keeping count of lines.
    private void Advance(int from, int to)
    {
        ReadOnlySpan<char> passed = _source.AsSpan(from, to - from);
        _line += passed.Count('\n');
        _lineStarting = passed.Length > 0 && passed[^1] == '\n';
        _position = to;
    }

    // "{%- raw -%}": where it ends, or -1 when the tag is another one. A newline after it stays.
    private int RawBegin(int tag, char sign)
    {
        int p = SkipBlank(tag + 2 + (sign == '\0' ? 0 : 1));
        if (!Matches(p, "raw"))
            return -1;
        p = SkipBlank(p + 3);
        if (Matches(p, "-%}"))
            return SkipBlank(p + 3);
        return Matches(p, "%}") ? p + 2 : -1;
    }

    private void ReadRaw()
    {
        int start = _position;
        for (int tag = _source.IndexOf("{%", start, StringComparison.Ordinal); tag >= 0; tag = _source.IndexOf("{%", tag + 2, StringComparison.Ordinal))
        {
            char sign = SignAt(tag + 2);
            int p = SkipBlank(tag + 2 + (sign == '\0' ? 0 : 1));
            if (!Matches(p, "endraw"))
                continue;
            int end = TagEnd(SkipBlank(p + 6), "%}", trimNewline: true);
            if (end < 0)
                continue;
            string text = _source[start..tag];
            AddData(StripBefore(text, sign, isVariable: false));
            Advance(start, end);
            return;
        }
        throw Fault.Syntax("the raw block is never closed: '{% endraw %}' is missing", _line);
    }

    private void SkipComment()
    {
        int close = _source.IndexOf("#}", _position, StringComparison.Ordinal);
        if (close < 0)
            throw Fault.Syntax("the comment is never closed: '#}' is missing", _line);
        // A sign belongs to the closing tag, not to the comment.
        int start = close > _position && _source[close - 1] is '-' or '+' ? close - 1 : close;
        Advance(_position, TagEnd(start, "#}", trimNewline: true));
    }

    /// <summary>Where the closing tag at a position ends, with what it swallows behind it; -1 when there is none.</summary>
    private int TagEnd(int position, string close, bool trimNewline)
    {
        if (Matches(position, close))
        {
            int end = position + close.Length;
            return trimNewline && end < _source.Length && _source[end] == '\n' ? end + 1 : end;
        }
        if (!Matches(position + 1, close) || position >= _source.Length)
            return -1;
        return _source[position] switch
        {
            '-' => SkipBlank(position + 1 + close.Length),
            '+' when trimNewline => position + 1 + close.Length,
            _ => -1,
        };
    }

    private bool Matches(int position, string text)
        => position >= 0 && position <= _source.Length - text.Length && string.CompareOrdinal(_source, position, text, 0, text.Length) == 0;

    private int SkipBlank(int position)
    {
        while (position < _source.Length && PyText.IsSpace(_source[position]))
            position++;
        return position;
    }

    private void ReadTag(string close, TokenKind closeKind)
    {
        _open.Clear();
        while (_position < _source.Length)
        {
            // Brackets come first: in "{{ {'a': 1}}}" the first "}" closes the dict.
            if (_open.Count == 0)
            {
                int end = TagEnd(_position, close, trimNewline: closeKind == TokenKind.BlockEnd);
                if (end >= 0)
                {
                    _tokens.Add(new Token(closeKind, close, null, _line));
                    Advance(_position, end);
                    return;
                }
            }
            char c = _source[_position];
            if (PyText.IsSpace(c))
                Advance(_position, SkipBlank(_position));
            else if (char.IsAsciiDigit(c))
                ReadNumber();
            else if (c is '\'' or '"')
                ReadString(c);
            else if (IsWord(_position, out _))
                ReadName();
            else
                ReadOperator(c);
        }
    }

    private void ReadName()
    {
        int start = _position;
        int p = start;
        while (p < _source.Length && IsWord(p, out int width))
            p += width;
        string name = _source[start..p];
        // Digits were taken by ReadNumber, so only exotic marks can make a word that is no identifier.
        Rune first = Rune.GetRuneAt(name, 0);
        if (first.Value != '_' && !Rune.IsLetter(first) && Rune.GetUnicodeCategory(first) != UnicodeCategory.LetterNumber)
            throw Fault.Syntax($"'{name}' is no valid name", _line);
        _tokens.Add(new Token(TokenKind.Name, name, null, _line));
        _position = p;
    }

    private bool IsWord(int position, out int width)
    {
        width = 1;
        char c = _source[position];
        if (c < 128)
            return c == '_' || char.IsAsciiLetterOrDigit(c);
        if (!Rune.TryGetRuneAt(_source, position, out Rune rune))
            return false;
        width = rune.Utf16SequenceLength;
        return Rune.GetUnicodeCategory(rune) is <= UnicodeCategory.LetterNumber or UnicodeCategory.ConnectorPunctuation;
    }

    // Numbers as in Python, underscores included; after a dot only integers ("a.0.1" indexes twice).
    private void ReadNumber()
    {
        bool afterDot = _position > 0 && _source[_position - 1] == '.';
        int p = Digits(_position);
        if (!afterDot)
        {
            int fraction = p < _source.Length - 1 && _source[p] == '.' && char.IsAsciiDigit(_source[p + 1]) ? Digits(p + 1) : p;
            int exponent = fraction;
            if (fraction < _source.Length && _source[fraction] is 'e' or 'E')
            {
                int q = fraction + 1;
                if (q < _source.Length && _source[q] is '+' or '-')
                    q++;
                if (q < _source.Length && char.IsAsciiDigit(_source[q]))
                    exponent = Digits(q);
            }
            if (exponent > p)
            {
                string text = _source[_position..exponent];
                double value = double.Parse(text.Replace("_", ""), NumberStyles.Float, CultureInfo.InvariantCulture);
                _tokens.Add(new Token(TokenKind.Float, text, value, _line));
                _position = exponent;
                return;
            }
        }
        ReadInteger(p);
    }

    private void ReadInteger(int decimalEnd)
    {
        int start = _position;
        if (_source[start] == '0' && start + 1 < _source.Length)
        {
            int radix = char.ToLowerInvariant(_source[start + 1]) switch { 'x' => 16, 'o' => 8, 'b' => 2, _ => 0 };
            if (radix != 0)
            {
                int end = PyNumber.ScanDigits(_source, start + 2, radix, allowLeadingUnderscore: true);
                if (end > start + 2)
                {
                    AddInteger(end, PyNumber.ParseInteger(_source[(start + 2)..end].Replace("_", ""), radix));
                    return;
                }
            }
            // "007" is read as "00" and "7", which the parser then refuses.
            int zeros = start + 1;
            while (zeros < decimalEnd && _source[zeros] is '0' or '_')
            {
                int next = _source[zeros] == '0' ? zeros + 1 : zeros + 2;
                if (next > decimalEnd || _source[next - 1] != '0')
                    break;
                zeros = next;
            }
            AddInteger(zeros, 0L);
            return;
        }
        AddInteger(decimalEnd, PyNumber.ParseInteger(_source[start..decimalEnd].Replace("_", ""), 10));
    }

    private void AddInteger(int end, object value)
    {
        _tokens.Add(new Token(TokenKind.Integer, _source[_position..end], value, _line));
        _position = end;
    }

    private int Digits(int position) => PyNumber.ScanDigits(_source, position, 10, allowLeadingUnderscore: false);

    private void ReadString(char quote)
    {
        int start = _position;
        int p = start + 1;
        while (p < _source.Length && _source[p] != quote)
            p += _source[p] == '\\' ? 2 : 1;
        if (p >= _source.Length)
            throw Fault.Syntax($"the string that starts with {_source[start..Math.Min(start + 20, _source.Length)]} is never closed", _line);
        string text = _source[(start + 1)..p];
        _tokens.Add(new Token(TokenKind.String, text, StringLiteral.Decode(text, _line), _line));
        Advance(start, p + 1);
    }

    private void ReadOperator(char c)
    {
        string two = _position + 2 <= _source.Length ? _source.Substring(_position, 2) : "";
        TokenKind? kind = two switch
        {
            "//" => TokenKind.FloorDiv,
            "**" => TokenKind.Pow,
            "==" => TokenKind.Equal,
            "!=" => TokenKind.NotEqual,
            ">=" => TokenKind.GreaterEqual,
            "<=" => TokenKind.LessEqual,
            _ => null,
        };
        string text = kind is null ? c.ToString() : two;
        kind ??= c switch
        {
            '+' => TokenKind.Add,
            '-' => TokenKind.Sub,
            '*' => TokenKind.Mul,
            '/' => TokenKind.Div,
            '%' => TokenKind.Mod,
            '~' => TokenKind.Tilde,
            '[' => TokenKind.LeftBracket,
            ']' => TokenKind.RightBracket,
            '(' => TokenKind.LeftParen,
            ')' => TokenKind.RightParen,
            '{' => TokenKind.LeftBrace,
            '}' => TokenKind.RightBrace,
            '>' => TokenKind.Greater,
            '<' => TokenKind.Less,
            '=' => TokenKind.Assign,
            '.' => TokenKind.Dot,
            ':' => TokenKind.Colon,
            '|' => TokenKind.Pipe,
            ',' => TokenKind.Comma,
            ';' => TokenKind.Semicolon,
            _ => throw Fault.Syntax($"unexpected character {PyText.Repr(c.ToString())} at position {_position}", _line),
        };
        Balance(c);
        _tokens.Add(new Token(kind.Value, text, null, _line));
        _position += text.Length;
    }

    private void Balance(char c)
    {
        if (c is '{' or '(' or '[')
        {
            _open.Push(c switch { '{' => '}', '(' => ')', _ => ']' });
            return;
        }
        if (c is not ('}' or ')' or ']'))
            return;
        if (!_open.TryPop(out char expected))
            throw Fault.Syntax($"unexpected '{c}'", _line);
        if (expected != c)
            throw Fault.Syntax($"unexpected '{c}', expected '{expected}'", _line);
    }

    private static int CountNewlines(string text) => text.AsSpan().Count('\n');
}
