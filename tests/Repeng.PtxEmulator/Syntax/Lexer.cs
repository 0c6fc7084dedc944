using System.Globalization;

namespace Repeng.PtxEmulator.Syntax;

internal enum TokenKind
{
    /// <summary>A name; an opcode keeps its dotted modifiers (<c>add.rn.f32</c>), a special register its component (<c>%tid.x</c>).</summary>
    Name,

    /// <summary>A word that begins with a dot: <c>.reg</c>, <c>.f32</c>.</summary>
    Directive,
    Number,
    Text,
    Punctuation,
    End,
}

/// <summary>A token. <paramref name="Bits"/> holds a number's value: an integer in two's complement, or the bits of a float of <paramref name="FloatWidth"/> bits.</summary>
internal readonly record struct Token(TokenKind Kind, string Text, ulong Bits, int FloatWidth, int Line)
{
    public bool Is(char c) => Kind == TokenKind.Punctuation && Text[0] == c;

    public bool Is(string directive) => Kind == TokenKind.Directive && Text == directive;
}

/// <summary>Cuts PTX text into tokens (PTX ISA, chapter 4: case sensitive ASCII, C and C++ comments, C number literals, 0f and 0d hexadecimal floats).</summary>
internal sealed class Lexer(string text)
{
    private int _at;
    private int _line = 1;

    public List<Token> All()
    {
        var tokens = new List<Token>(text.Length / 5);
        do
            tokens.Add(Next());
        while (tokens[^1].Kind != TokenKind.End);
        return tokens;
    }

    private char Peek(int ahead = 0) => _at + ahead < text.Length ? text[_at + ahead] : '\0';

    private static bool IsNameStart(char c) => char.IsAsciiLetter(c) || c is '_' or '$' or '%';

    private static bool IsNamePart(char c) => char.IsAsciiLetterOrDigit(c) || c is '_' or '$';

    private Token Next()
    {
        SkipBlank();
        int line = _line, start = _at;
        char c = Peek();
        if (c == '\0')
            return new Token(TokenKind.End, "end of file", 0, 0, line);
        if (IsNameStart(c))
        {
            _at++;
            Name();
            while (Peek() == '.' && IsNamePart(Peek(1)))
            {
                _at++;
                Name();
            }

            return new Token(TokenKind.Name, text[start.._at], 0, 0, line);
        }

        if (c == '.' && IsNamePart(Peek(1)) && !char.IsAsciiDigit(Peek(1)))
        {
            _at++;
            Name();
            return new Token(TokenKind.Directive, text[start.._at], 0, 0, line);
        }

        if (char.IsAsciiDigit(c) || (c == '.' && char.IsAsciiDigit(Peek(1))))
            return Number(line);
        if (c == '"')
        {
            int end = text.IndexOf('"', _at + 1);
            if (end < 0)
                throw new PtxSyntaxException("a text without its closing quote", line);
            _at = end + 1;
            return new Token(TokenKind.Text, text[(start + 1)..end], 0, 0, line);
        }

        _at++;
        return new Token(TokenKind.Punctuation, c.ToString(), 0, 0, line);
    }

    private void Name()
    {
        while (IsNamePart(Peek()) || (Peek() == ':' && Peek(1) == ':' && IsNamePart(Peek(2))))
            _at += Peek() == ':' ? 2 : 1;
    }

    private void SkipBlank()
    {
        while (true)
        {
            char c = Peek();
            if (c == '\n')
                _line++;
            if (c is ' ' or '\t' or '\r' or '\n')
            {
                _at++;
            }
            else if (c == '/' && Peek(1) == '/')
            {
                while (Peek() is not ('\n' or '\0'))
                    _at++;
            }
            else if (c == '/' && Peek(1) == '*')
            {
                int end = text.IndexOf("*/", _at + 2, StringComparison.Ordinal);
                if (end < 0)
                    throw new PtxSyntaxException("a comment without its end", _line);
                for (int i = _at; i < end; i++)
                    _line += text[i] == '\n' ? 1 : 0;
                _at = end + 2;
            }
            else if (c == '\0' && _at < text.Length)
            {
                // The terminating zero that the driver wants may be part of the text.
                _at++;
            }
            else
            {
                return;
            }
        }
    }

    private Token Number(int line)
    {
        int start = _at;
        if (Peek() == '0' && Peek(1) is 'f' or 'F' or 'd' or 'D' && char.IsAsciiHexDigit(Peek(2)))
        {
            int width = Peek(1) is 'f' or 'F' ? 32 : 64;
            int digits = width / 4;
            if (_at + 2 + digits > text.Length || !ulong.TryParse(text.AsSpan(_at + 2, digits), NumberStyles.AllowHexSpecifier, CultureInfo.InvariantCulture, out ulong bits))
                throw new PtxSyntaxException($"'{text[start..Math.Min(text.Length, start + 2 + digits)]}' is no float of {digits} hexadecimal digits", line);
            _at += 2 + digits;
            return new Token(TokenKind.Number, text[start.._at], bits, width, line);
        }

        while (IsNamePart(Peek()) || Peek() == '.' || (Peek() is '+' or '-' && Peek(-1) is 'e' or 'E' && !text.AsSpan(start, 2).SequenceEqual("0x")))
            _at++;
        string raw = text[start.._at], digitsOnly = raw.TrimEnd('U', 'u');
        ulong value;
        bool ok;
        if (raw.StartsWith("0x", StringComparison.OrdinalIgnoreCase))
        {
            ok = ulong.TryParse(digitsOnly.AsSpan(2), NumberStyles.AllowHexSpecifier, CultureInfo.InvariantCulture, out value);
        }
        else if (raw.StartsWith("0b", StringComparison.OrdinalIgnoreCase))
        {
            ok = ulong.TryParse(digitsOnly.AsSpan(2), NumberStyles.AllowBinarySpecifier, CultureInfo.InvariantCulture, out value);
        }
        else if (raw.AsSpan().ContainsAny('.', 'e', 'E'))
        {
            ok = double.TryParse(raw, NumberStyles.Float, CultureInfo.InvariantCulture, out double number);
            if (ok)
                return new Token(TokenKind.Number, raw, BitConverter.DoubleToUInt64Bits(number), 64, line);
            value = 0;
        }
        else if (raw.Length > 1 && raw[0] == '0')
        {
            value = 0;
            ok = digitsOnly.All(d => d is >= '0' and <= '7');
            if (ok)
                foreach (char d in digitsOnly)
                    value = (value << 3) | (uint)(d - '0');
        }
        else
        {
            ok = ulong.TryParse(digitsOnly, NumberStyles.None, CultureInfo.InvariantCulture, out value);
        }

        return ok ? new Token(TokenKind.Number, raw, value, 0, line) : throw new PtxSyntaxException($"'{raw}' is no number", line);
    }
}
