using Repeng.Kernels;

namespace Repeng.Runtime.Tokenizers;

/// <summary>A part of the text on its way to the model.</summary>
/// <param name="Source">The text that it is cut from.</param>
/// <param name="Start">Where it begins in that.</param>
/// <param name="Length">How many UTF-16 units it has.</param>
/// <param name="AtStart">True when it begins where the whole input begins.</param>
internal readonly record struct Piece(string Source, int Start, int Length, bool AtStart)
{
    public Piece(string text, bool atStart) : this(text, 0, text.Length, atStart)
    {
    }

    public ReadOnlySpan<char> Span => Source.AsSpan(Start, Length);

    public Piece Slice(int start, int end) => new(Source, Start + start, end - start, AtStart && start == 0);
}

/// <summary>A step that splits pieces further, and may rewrite them.</summary>
internal abstract class PreTokenizer
{
    private const string Known = "Sequence, ByteLevel, Split, Digits, Metaspace, Whitespace, WhitespaceSplit, Punctuation, BertPreTokenizer, CharDelimiterSplit, UnicodeScripts, FixedLength";

    /// <summary>Appends what becomes of the piece; empty pieces are dropped.</summary>
    public abstract void Split(Piece piece, List<Piece> output);

    /// <exception cref="UserErrorException">The section is malformed or names a pre-tokenizer that is not supported.</exception>
    public static IEnumerable<PreTokenizer> Read(JsonSection section)
    {
        switch (section.Type)
        {
            case "Sequence":
                return section.Sections("pretokenizers").SelectMany(Read);
            case "ByteLevel":
                return ByteLevelSplit.Steps(section.Flag("add_prefix_space", true), section.Flag("use_regex", true));
            case "Split":
                return [new PatternSplit(TextPattern.Read(section), ReadBehavior(section), section.Flag("invert", false))];
            case "Digits":
                return [new ClassSplit(CodePoints.IsNumeric, section.Flag("individual_digits", false) ? SplitBehavior.Isolated : SplitBehavior.Contiguous)];
            case "Metaspace":
                return [MetaspaceSplit.ReadFrom(section)];
            case "Whitespace":
                return [new WordSplit()];
            case "WhitespaceSplit":
                return [new ClassSplit(CodePoints.IsWhiteSpace, SplitBehavior.Removed)];
            case "Punctuation":
                return [new ClassSplit(CodePoints.IsPunctuation, section.TextOrNull("behavior") is null ? SplitBehavior.Isolated : ReadBehavior(section))];
            case "BertPreTokenizer":
                return Bert();
            case "CharDelimiterSplit":
                return [new PatternSplit(TextPattern.OfText(section.Text("delimiter")), SplitBehavior.Removed, invert: false)];
            case "UnicodeScripts":
                return [new ScriptSplit()];
            case "FixedLength":
                int length = section.TryGet("length", out _) ? section.Number("length") : 5;
                return [length > 0 ? new LengthSplit(length) : throw section.Error("'length' must be above 0")];
            default:
                throw section.UnknownType(Known);
        }
    }

    /// <summary>BERT's split: words between white space, every mark of punctuation by itself.</summary>
    public static PreTokenizer[] Bert() =>
        [new ClassSplit(CodePoints.IsWhiteSpace, SplitBehavior.Removed), new ClassSplit(CodePoints.IsPunctuation, SplitBehavior.Isolated)];

    private static SplitBehavior ReadBehavior(JsonSection section)
    {
        string name = section.Text("behavior");
        return Enum.GetNames<SplitBehavior>().Contains(name) ? Enum.Parse<SplitBehavior>(name)
            : throw section.Error($"the behavior {JsonSection.Quote(name)} is not supported; supported are {string.Join(", ", Enum.GetNames<SplitBehavior>())}");
    }
}

/// <summary>What becomes of the matches of a split.</summary>
internal enum SplitBehavior { Removed, Isolated, MergedWithPrevious, MergedWithNext, Contiguous }

/// <summary>A split at matches; subclasses say what matches.</summary>
internal abstract class MatchSplit(SplitBehavior behavior) : PreTokenizer
{
    /// <summary>Appends parts that cover the text without gaps, in order, each with whether it is a match.</summary>
    protected abstract void FindParts(ReadOnlySpan<char> text, List<(int Start, int End, bool IsMatch)> parts);

    public override void Split(Piece piece, List<Piece> output)
    {
        List<(int Start, int End, bool IsMatch)> parts = [];
        FindParts(piece.Span, parts);
        if (behavior == SplitBehavior.MergedWithNext)
            parts.Reverse();

        int joinedStart = -1, joinedEnd = -1;
        bool previous = false;
        int first = output.Count;
        foreach ((int start, int end, bool isMatch) in parts)
        {
            // A match joins what stands before it (after it, when the parts are reversed) unless that is a match as well;
            // equals join when they are to be contiguous.
            bool joins = joinedStart >= 0 && behavior switch
            {
                SplitBehavior.MergedWithPrevious or SplitBehavior.MergedWithNext => isMatch && !previous,
                SplitBehavior.Contiguous => isMatch == previous,
                _ => false,
            };
            previous = isMatch;
            if (joins)
            {
                joinedStart = Math.Min(joinedStart, start);
                joinedEnd = Math.Max(joinedEnd, end);
                continue;
            }
            Emit(piece, joinedStart, joinedEnd, output);
            (joinedStart, joinedEnd) = behavior == SplitBehavior.Removed && isMatch ? (-1, -1) : (start, end);
        }
        Emit(piece, joinedStart, joinedEnd, output);
        if (behavior == SplitBehavior.MergedWithNext)
            output.Reverse(first, output.Count - first);
    }

    private static void Emit(Piece piece, int start, int end, List<Piece> output)
    {
        if (end > start)
            output.Add(piece.Slice(start, end));
    }
}

/// <summary>A split at the matches of a literal text or a regular expression; inverted, at what lies between them.</summary>
internal sealed class PatternSplit(TextPattern pattern, SplitBehavior behavior, bool invert) : MatchSplit(behavior)
{
    private readonly SplitBehavior _behavior = behavior;

    public override void Split(Piece piece, List<Piece> output)
    {
        // Where matches stand by themselves, what lies between them does as well: nothing has to be joined.
        if (_behavior == SplitBehavior.Isolated && pattern.Regex is { } regex)
            regex.SplitAtMatches(piece, output);
        else
            base.Split(piece, output);
    }

    protected override void FindParts(ReadOnlySpan<char> text, List<(int Start, int End, bool IsMatch)> parts)
    {
        List<(int Start, int End)> matches = [];
        pattern.FindAll(text, matches);
        int done = 0;
        foreach ((int start, int end) in matches)
        {
            if (start > done)
                parts.Add((done, start, invert));
            parts.Add((start, end, !invert));
            done = end;
        }
        if (done < text.Length)
            parts.Add((done, text.Length, invert));
    }
}

/// <summary>A split at single code points of a class.</summary>
internal sealed class ClassSplit(Func<int, bool> isMember, SplitBehavior behavior) : MatchSplit(behavior)
{
    protected override void FindParts(ReadOnlySpan<char> text, List<(int Start, int End, bool IsMatch)> parts)
    {
        int done = 0;
        for (int i = 0; i < text.Length;)
        {
            int point = CodePoints.At(text, i, out int length);
            if (isMember(point))
            {
                if (i > done)
                    parts.Add((done, i, false));
                parts.Add((i, i + length, true));
                done = i + length;
            }
            i += length;
        }
        if (done < text.Length)
            parts.Add((done, text.Length, false));
    }
}

/// <summary>Runs of word characters, and runs of what is neither that nor white space; white space drops out.</summary>
internal sealed class WordSplit : PreTokenizer
{
    public override void Split(Piece piece, List<Piece> output)
    {
        ReadOnlySpan<char> text = piece.Span;
        int start = 0;
        Kind before = Kind.Space;
        for (int i = 0; i < text.Length;)
        {
            int point = CodePoints.At(text, i, out int length);
            Kind kind = CodePoints.IsWord(point) ? Kind.Word : CodePoints.IsWhiteSpace(point) ? Kind.Space : Kind.Other;
            if (kind != before)
            {
                if (before != Kind.Space)
                    output.Add(piece.Slice(start, i));
                start = i;
                before = kind;
            }
            i += length;
        }
        if (before != Kind.Space)
            output.Add(piece.Slice(start, text.Length));
    }

    private enum Kind { Space, Word, Other }
}

/// <summary>
/// A split where the script changes, as SentencePiece has it: kana count as ideographs, a space belongs to what stands before it.
/// Characters without a script do the same; those at the very front drop out, as in the original.
/// </summary>
internal sealed class ScriptSplit : PreTokenizer
{
    private const int ProlongedSound = 0x30FC;

    private static readonly int s_han = UnicodeProperties.Script("Han");
    private static readonly int[] s_kana = [UnicodeProperties.Script("Hiragana"), UnicodeProperties.Script("Katakana")];

    public override void Split(Piece piece, List<Piece> output)
    {
        ReadOnlySpan<char> text = piece.Span;
        int start = -1, before = UnicodeProperties.NoScript;
        for (int i = 0; i < text.Length;)
        {
            int script = ScriptOf(CodePoints.At(text, i, out int length));
            if (script != UnicodeProperties.NoScript && script != before)
            {
                if (start >= 0)
                    output.Add(piece.Slice(start, i));
                (start, before) = (i, script);
            }
            i += length;
        }
        if (start >= 0)
            output.Add(piece.Slice(start, text.Length));
    }

    private static int ScriptOf(int codePoint)
    {
        if (codePoint == ' ')
            return UnicodeProperties.NoScript;
        int script = UnicodeProperties.ScriptOf(codePoint);
        return codePoint == ProlongedSound || s_kana.Contains(script) ? s_han : script;
    }
}

/// <summary>Pieces of so many code points; the last one may be shorter.</summary>
internal sealed class LengthSplit(int count) : PreTokenizer
{
    public override void Split(Piece piece, List<Piece> output)
    {
        ReadOnlySpan<char> text = piece.Span;
        int start = 0, points = 0;
        for (int i = 0; i < text.Length;)
        {
            CodePoints.At(text, i, out int length);
            i += length;
            if (++points % count != 0 && i < text.Length)
                continue;
            output.Add(piece.Slice(start, i));
            start = i;
        }
    }
}

/// <summary>The byte-level steps: a space in front, GPT-2's split, the bytes as printable stand-ins.</summary>
internal static class ByteLevelSplit
{
    /// <summary>GPT-2's split, case-sensitive.</summary>
    private const string Gpt2 = @"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+";

    private static readonly TextPattern s_gpt2 = TextPattern.OfRegex(Gpt2, "ByteLevel");

    public static IEnumerable<PreTokenizer> Steps(bool addPrefixSpace, bool useRegex)
    {
        if (addPrefixSpace)
            yield return new PrefixSpace();
        if (useRegex)
            yield return new PatternSplit(s_gpt2, SplitBehavior.Isolated, invert: false);
        yield return new ByteMapping();
    }
}

/// <summary>Puts a space before every piece that does not begin with one.</summary>
internal sealed class PrefixSpace : PreTokenizer
{
    public override void Split(Piece piece, List<Piece> output) =>
        output.Add(piece.Span.StartsWith(" ") ? piece : new Piece(string.Concat(" ", piece.Span), piece.AtStart));
}

/// <summary>
/// Replaces each piece by the stand-ins of its UTF-8 bytes. As the last step, where it nearly always stands, the tokenizer
/// does it itself, for the pieces that its cache does not know.
/// </summary>
internal sealed class ByteMapping : PreTokenizer
{
    public override void Split(Piece piece, List<Piece> output) =>
        output.Add(new Piece(ByteAlphabet.Map(piece.Span), piece.AtStart));
}

/// <summary>Spaces become a visible mark, with one in front of every piece, of the first one, or of none.</summary>
internal sealed class MetaspaceSplit(string replacement, string prependScheme, bool split) : PreTokenizer
{
    private readonly PatternSplit? _split = split ? new PatternSplit(TextPattern.OfText(replacement), SplitBehavior.MergedWithNext, invert: false) : null;

    /// <summary>The mark and the scheme (always, first, never) of a Metaspace section, in its old and new forms.</summary>
    public static (string Replacement, string Scheme) ReadScheme(JsonSection section)
    {
        string replacement = section.TextOrNull("replacement") ?? "\u2581";
        if (replacement.Length == 0 || replacement.EnumerateRunes().Count() != 1)
            throw section.Error($"'replacement' must be one character, but is {JsonSection.Quote(replacement)}");
        string? scheme = section.TextOrNull("prepend_scheme");
        if (scheme is not (null or "always" or "first" or "never"))
            throw section.Error($"the prepend_scheme {JsonSection.Quote(scheme)} is not supported; supported are always, first, never");
        bool prefix = section.Flag("add_prefix_space", true);
        if (!prefix && scheme is "always" or "first")
            throw section.Error($"'add_prefix_space' is false but 'prepend_scheme' is {scheme}; the file contradicts itself");
        return (replacement, prefix ? scheme ?? "always" : "never");
    }

    public static MetaspaceSplit ReadFrom(JsonSection section)
    {
        (string replacement, string scheme) = ReadScheme(section);
        return new MetaspaceSplit(replacement, scheme, section.Flag("split", true));
    }

    public override void Split(Piece piece, List<Piece> output)
    {
        string text = piece.Span.ToString().Replace(" ", replacement, StringComparison.Ordinal);
        bool prepend = prependScheme == "always" || prependScheme == "first" && piece.AtStart;
        if (prepend && !text.StartsWith(replacement, StringComparison.Ordinal))
            text = replacement + text;
        var marked = new Piece(text, piece.AtStart);
        if (_split is null)
            output.Add(marked);
        else
            _split.Split(marked, output);
    }
}
