using System.Globalization;
using Repeng.Kernels;

namespace Repeng.Runtime.Tokenizers;

/// <summary>A parsed regular expression; see <see cref="RegexSyntax"/>.</summary>
internal abstract record RegexNode
{
    /// <summary>True when the expression can match without taking a character.</summary>
    public abstract bool CanBeEmpty { get; }

    public sealed record Set(CodePointSet Members) : RegexNode
    {
        public override bool CanBeEmpty => false;
    }

    public sealed record Sequence(IReadOnlyList<RegexNode> Items) : RegexNode
    {
        public override bool CanBeEmpty => Items.All(i => i.CanBeEmpty);
    }

    public sealed record Choice(IReadOnlyList<RegexNode> Options) : RegexNode
    {
        public override bool CanBeEmpty => Options.Any(o => o.CanBeEmpty);
    }

    /// <summary><paramref name="Max"/> is int.MaxValue when there is no upper bound.</summary>
    public sealed record Repeat(RegexNode Body, int Min, int Max, RepeatKind Kind) : RegexNode
    {
        public override bool CanBeEmpty => Min == 0 || Body.CanBeEmpty;
    }

    public sealed record LookAhead(RegexNode Body, bool Negative) : RegexNode
    {
        public override bool CanBeEmpty => true;
    }

    public sealed record LookBehind(CodePointSet Members, bool Negative) : RegexNode
    {
        public override bool CanBeEmpty => true;
    }

    public sealed record Atomic(RegexNode Body) : RegexNode
    {
        public override bool CanBeEmpty => Body.CanBeEmpty;
    }

    public sealed record Anchor(AnchorKind Kind) : RegexNode
    {
        public override bool CanBeEmpty => true;
    }
}

internal enum RepeatKind { Greedy, Lazy, Possessive }

internal enum AnchorKind { TextStart, TextEnd, LineStart, LineEnd, WordBoundary, NoWordBoundary }

/// <summary>
/// Reads the regular expressions of tokenizer files, in the syntax of the library that runs them there
/// (Oniguruma with Ruby's rules): <c>^ $</c> are line anchors, <c>{n,m}+</c> repeats the interval (it is not
/// possessive), <c>[a[b]&amp;&amp;c]</c> nests and intersects. What is not known is refused by name:
/// a wrong split would silently give wrong ids.
/// </summary>
internal sealed class RegexSyntax
{
    private const int DeepestNesting = 64;
    private const int LargestInterval = 100_000;

    private readonly string _pattern;
    private readonly string _where;
    private int _at;
    private bool _ignoreCase;
    private char _lastFolded;

    private RegexSyntax(string pattern, string where)
    {
        _pattern = pattern;
        _where = where;
    }

    /// <exception cref="UserErrorException">The pattern is malformed or uses a construct that is not supported.</exception>
    public static RegexNode Parse(string pattern, string where)
    {
        var syntax = new RegexSyntax(pattern, where);
        RegexNode node = syntax.ParseChoice(0);
        if (syntax._at < pattern.Length)
            throw syntax.Refuse("a ')' without its '('");
        return node;
    }

    private UserErrorException Refuse(string what) => new(
        $"{_where}: the pattern {JsonSection.Quote(_pattern)} uses {what} at position {_at}, which this engine does not support; "
        + "splitting without it would give wrong tokens");

    private bool Done => _at >= _pattern.Length;

    private bool Take(string text)
    {
        if (string.CompareOrdinal(_pattern, _at, text, 0, text.Length) != 0)
            return false;
        _at += text.Length;
        return true;
    }

    private int NextCodePoint()
    {
        int codePoint = CodePoints.At(_pattern, _at, out int length);
        _at += length;
        return codePoint;
    }

    private RegexNode ParseChoice(int depth)
    {
        if (depth > DeepestNesting)
            throw Refuse($"more than {DeepestNesting} nested groups");
        List<RegexNode> options = [ParseSequence(depth)];
        while (!Done && _pattern[_at] == '|')
        {
            _at++;
            options.Add(ParseSequence(depth));
        }
        return options.Count == 1 ? options[0] : new RegexNode.Choice(options);
    }

    private RegexNode ParseSequence(int depth)
    {
        List<RegexNode> items = [];
        _lastFolded = '\0';
        while (!Done && _pattern[_at] is not ('|' or ')'))
            items.Add(ParseRepeats(ParseAtom(depth)));
        return items.Count == 1 ? items[0] : new RegexNode.Sequence(items);
    }

    private RegexNode ParseRepeats(RegexNode body)
    {
        bool repeated = false;
        while (!Done)
        {
            int min, max;
            bool interval = false;
            if (Take("*"))
                (min, max) = (0, int.MaxValue);
            else if (Take("+"))
                (min, max) = (1, int.MaxValue);
            else if (Take("?"))
                (min, max) = (0, 1);
            else if (TryInterval(out min, out max))
                interval = true;
            else
                return body;
            if (repeated)
                throw Refuse("a repeat of a repeat");
            if (body is RegexNode.Anchor or RegexNode.LookAhead or RegexNode.LookBehind)
                throw Refuse("a repeated assertion");

            var kind = RepeatKind.Greedy;
            if (interval)
            {
                if (!Done && _pattern[_at] == '?' && min == max)
                    throw Refuse("a lazy interval of fixed length");
                if (Take("?"))
                    kind = RepeatKind.Lazy;
                body = Repeated(body, min, max, kind);
                if (Take("+"))
                    body = Repeated(body, 1, int.MaxValue, RepeatKind.Greedy);
            }
            else
            {
                if (Take("?"))
                    kind = RepeatKind.Lazy;
                else if (Take("+"))
                    kind = RepeatKind.Possessive;
                body = Repeated(body, min, max, kind);
            }
            repeated = true;
            _lastFolded = '\0';
        }
        return body;
    }

    private RegexNode Repeated(RegexNode body, int min, int max, RepeatKind kind)
    {
        if (max == int.MaxValue && body.CanBeEmpty)
            throw Refuse("an unbounded repeat of something that may be empty");
        return new RegexNode.Repeat(body, min, max, kind);
    }

    /// <summary>{n}, {n,}, {n,m} or {,m}; anything else after a brace is literal text.</summary>
    private bool TryInterval(out int min, out int max)
    {
        (min, max) = (0, int.MaxValue);
        if (_pattern[_at] != '{')
            return false;
        int close = _pattern.IndexOf('}', _at);
        if (close < 0)
            return false;
        ReadOnlySpan<char> inside = _pattern.AsSpan(_at + 1, close - _at - 1);
        int comma = inside.IndexOf(',');
        ReadOnlySpan<char> first = comma < 0 ? inside : inside[..comma];
        ReadOnlySpan<char> second = comma < 0 ? inside : inside[(comma + 1)..];
        if (inside.ContainsAnyExcept("0123456789,") || first.IsEmpty && second.IsEmpty || second.Contains(','))
            return false;
        if (!first.IsEmpty && (!int.TryParse(first, NumberStyles.None, CultureInfo.InvariantCulture, out min) || min > LargestInterval)
            || !second.IsEmpty && (!int.TryParse(second, NumberStyles.None, CultureInfo.InvariantCulture, out max) || max > LargestInterval)
            || min > max)
            throw Refuse($"the interval {{{inside}}}");
        _at = close + 1;
        return true;
    }

    private RegexNode ParseAtom(int depth)
    {
        char c = _pattern[_at];
        if (c == '(')
            return ParseGroup(depth);
        if (c == '[')
        {
            _at++;
            _lastFolded = '\0';
            return new RegexNode.Set(ParseClass(depth));
        }
        if (c is '*' or '+' or '?')
            throw Refuse($"a '{c}' that repeats nothing");
        if (Take("."))
            return new RegexNode.Set(CodePointSet.AnyButNewline);
        if (Take("^"))
            return new RegexNode.Anchor(AnchorKind.LineStart);
        if (Take("$"))
            return new RegexNode.Anchor(AnchorKind.LineEnd);
        if (Take(@"\A"))
            return new RegexNode.Anchor(AnchorKind.TextStart);
        if (Take(@"\z"))
            return new RegexNode.Anchor(AnchorKind.TextEnd);
        if (Take(@"\b"))
            return new RegexNode.Anchor(AnchorKind.WordBoundary);
        if (Take(@"\B"))
            return new RegexNode.Anchor(AnchorKind.NoWordBoundary);
        if (c == '\\')
        {
            CodePointSet? set = ParseEscape(out int literal);
            if (set is not null)
            {
                _lastFolded = '\0';
                return new RegexNode.Set(set);
            }
            return Literal(literal);
        }
        return Literal(NextCodePoint());
    }

    private RegexNode.Set Literal(int codePoint)
    {
        if (!_ignoreCase)
            return new RegexNode.Set(CodePointSet.Of((codePoint, codePoint)));
        if (codePoint >= 128)
            throw Refuse("a case-insensitive character beyond ASCII");
        char lower = char.ToLowerInvariant((char)codePoint);
        // Folding makes one character of these pairs (ß, ﬁ, ﬆ …); a character-by-character match would miss it.
        if ((_lastFolded, lower) is ('f', 'f') or ('f', 'i') or ('f', 'l') or ('s', 's') or ('s', 't'))
            throw Refuse($"the case-insensitive pair '{_lastFolded}{lower}'");
        _lastFolded = lower;
        return new RegexNode.Set(WithCases(CodePointSet.Of((codePoint, codePoint))));
    }

    /// <summary>Adds the other case of the set's ASCII letters; k also has the Kelvin sign, s the long s.</summary>
    private static CodePointSet WithCases(CodePointSet set)
    {
        List<(int, int)> ranges = [];
        for (int c = 'a'; c <= 'z'; c++)
        {
            int upper = c - 'a' + 'A';
            if (!set.Contains(c) && !set.Contains(upper))
                continue;
            ranges.Add((c, c));
            ranges.Add((upper, upper));
            if (c == 'k')
                ranges.Add((0x212A, 0x212A));
            if (c == 's')
                ranges.Add((0x017F, 0x017F));
        }
        return ranges.Count == 0 ? set : CodePointSet.Union(0, ranges, set);
    }

    private RegexNode ParseGroup(int depth)
    {
        _at++;
        bool outer = _ignoreCase;
        RegexNode node;
        if (Take("?:"))
            node = ParseChoice(depth + 1);
        else if (Take("?i:"))
        {
            _ignoreCase = true;
            node = ParseChoice(depth + 1);
        }
        else if (Take("?-i:"))
        {
            _ignoreCase = false;
            node = ParseChoice(depth + 1);
        }
        else if (Take("?>"))
            node = new RegexNode.Atomic(ParseChoice(depth + 1));
        else if (Take("?="))
            node = new RegexNode.LookAhead(ParseChoice(depth + 1), false);
        else if (Take("?!"))
            node = new RegexNode.LookAhead(ParseChoice(depth + 1), true);
        else if (Take("?<="))
            node = Behind(ParseChoice(depth + 1), false);
        else if (Take("?<!"))
            node = Behind(ParseChoice(depth + 1), true);
        else if (!Done && _pattern[_at] == '?')
            throw Refuse($"the group '(?{_pattern.AsSpan(_at + 1, Math.Min(3, _pattern.Length - _at - 1))}'");
        else
            node = ParseChoice(depth + 1);
        _ignoreCase = outer;
        _lastFolded = '\0';
        return Take(")") ? node : throw Refuse("a '(' without its ')'");
    }

    private RegexNode.LookBehind Behind(RegexNode body, bool negative) =>
        body is RegexNode.Set set ? new RegexNode.LookBehind(set.Members, negative)
        : throw Refuse("a look-behind of more than one character");

    /// <summary>The inside of a character class, after its opening bracket.</summary>
    private CodePointSet ParseClass(int depth)
    {
        if (depth > DeepestNesting)
            throw Refuse($"more than {DeepestNesting} nested classes");
        bool negated = Take("^");
        List<(int, int)> ranges = [];
        List<CodePointSet> parts = [];
        CodePointSet? within = null;
        bool any = false;
        while (true)
        {
            if (Done)
                throw Refuse("a '[' without its ']'");
            if (Take("]"))
            {
                if (!any)
                    throw Refuse("an empty character class");
                break;
            }
            if (Take("&&"))
            {
                CodePointSet left = Assemble(ranges, parts);
                within = within is null ? left : left.Intersect(within);
                (ranges, parts, any) = ([], [], false);
                continue;
            }
            any = true;
            if (_pattern[_at] == '[')
            {
                if (Take("[:"))
                    throw Refuse("a POSIX bracket");
                _at++;
                parts.Add(ParseClass(depth + 1));
                continue;
            }
            int first;
            if (_pattern[_at] == '\\')
            {
                CodePointSet? set = ParseEscape(out first, inClass: true);
                if (set is not null)
                {
                    parts.Add(set);
                    continue;
                }
            }
            else
            {
                first = NextCodePoint();
            }
            int last = first;
            if (_at + 1 < _pattern.Length && _pattern[_at] == '-' && _pattern[_at + 1] != ']')
            {
                _at++;
                bool set = _pattern[_at] == '[';
                if (_pattern[_at] == '\\')
                    set = ParseEscape(out last, inClass: true) is not null;
                else
                    last = NextCodePoint();
                if (set)
                    throw Refuse("a range that ends in a class");
            }
            if (last < first)
                throw Refuse("a range whose end lies before its start");
            if (_ignoreCase && last >= 128)
                throw Refuse("a case-insensitive character beyond ASCII");
            ranges.Add((first, last));
        }
        CodePointSet result = Assemble(ranges, parts);
        if (within is not null)
            result = result.Intersect(within);
        return negated ? result.Negate() : result;
    }

    private CodePointSet Assemble(List<(int, int)> ranges, List<CodePointSet> parts)
    {
        CodePointSet set = CodePointSet.Union(0, ranges, parts);
        return _ignoreCase ? WithCases(set) : set;
    }

    /// <summary>An escape: a set, or null and a single code point.</summary>
    private CodePointSet? ParseEscape(out int literal, bool inClass = false)
    {
        literal = 0;
        _at++;
        if (Done)
            throw Refuse("a backslash at the end");
        int c = NextCodePoint();
        switch (c)
        {
            case 's': return CodePointSet.WhiteSpace;
            case 'S': return CodePointSet.WhiteSpace.Negate();
            case 'd': return CodePointSet.DecimalDigit;
            case 'D': return CodePointSet.DecimalDigit.Negate();
            case 'w': return inClass ? CodePointSet.WordInClass : CodePointSet.Word;
            case 'W': return (inClass ? CodePointSet.WordInClass : CodePointSet.Word).Negate();
            case 'p' or 'P': return ParseProperty(c == 'P');
            case 'n': literal = '\n'; return null;
            case 'r': literal = '\r'; return null;
            case 't': literal = '\t'; return null;
            case 'f': literal = '\f'; return null;
            case 'v': literal = '\v'; return null;
            case 'a': literal = '\a'; return null;
            case 'e': literal = 0x1B; return null;
            case 'b' when inClass: literal = '\b'; return null;
            case 'x': literal = ParseHex(_pattern.AsSpan(_at).StartsWith("{") ? 0 : 2); return null;
            case 'u': literal = ParseHex(4); return null;
        }
        if (c < 128 && char.IsLetterOrDigit((char)c))
            throw Refuse($"the escape '\\{(char)c}'");
        literal = c;
        return null;
    }

    /// <summary>Hexadecimal digits: exactly <paramref name="digits"/>, or as many as stand in braces when 0.</summary>
    private int ParseHex(int digits)
    {
        int start = digits == 0 ? _at + 1 : _at;
        int end = digits == 0 ? _pattern.IndexOf('}', _at) : _at + digits;
        if (end < start || end > _pattern.Length
            || !int.TryParse(_pattern.AsSpan(start, end - start), NumberStyles.AllowHexSpecifier, CultureInfo.InvariantCulture, out int value)
            || value is < 0 or > 0x10FFFF)
            throw Refuse("a malformed hexadecimal escape");
        _at = digits == 0 ? end + 1 : end;
        return value;
    }

    private CodePointSet ParseProperty(bool negated)
    {
        int close = Done || _pattern[_at] != '{' ? -1 : _pattern.IndexOf('}', _at);
        if (close < 0)
            throw Refuse("a property without braces");
        string name = _pattern[(_at + 1)..close];
        if (name.StartsWith('^'))
        {
            name = name[1..];
            negated = !negated;
        }
        if (_ignoreCase && (name is "Lu" or "Ll" or "Lt"))
            throw Refuse($"the case-insensitive property {name}");
        uint mask = CodePointSet.Property(name);
        CodePointSet set = name == "Han" ? CodePointSet.Han
            : mask != 0 ? CodePointSet.OfCategories(mask)
            : throw Refuse($"the property {JsonSection.Quote(name)}");
        _at = close + 1;
        return negated ? set.Negate() : set;
    }
}
