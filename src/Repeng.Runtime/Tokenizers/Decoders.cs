using System.Buffers;
using System.Globalization;
using System.Runtime.InteropServices;
using System.Text;
using Repeng.Kernels;

namespace Repeng.Runtime.Tokenizers;

/// <summary>
/// One step from tokens back to text. A step sees a list of token texts; after a step that joins them
/// (ByteLevel, Fuse) there is one text only, which a stream receives in parts.
/// </summary>
internal abstract class TokenDecoder
{
    /// <summary>True when the step leaves one text instead of a list.</summary>
    public virtual bool Joins => false;

    /// <summary>Rewrites the list in place: what decoding all tokens at once gives.</summary>
    public abstract void Decode(List<string> tokens);

    /// <summary>The same step for tokens that come one by one.</summary>
    /// <param name="joined">True when an earlier step joins, so that what comes in are parts of one text. Steps that need it whole hold it back until the end.</param>
    public abstract StreamStep Stream(bool joined);

    /// <exception cref="UserErrorException">The section is malformed or names a decoder that is not supported.</exception>
    public static List<TokenDecoder> Read(JsonSection section)
    {
        List<TokenDecoder> steps = [];
        Read(section, steps);
        return steps;
    }

    private static void Read(JsonSection section, List<TokenDecoder> steps)
    {
        switch (section.Type)
        {
            case "Sequence":
                foreach (JsonSection part in section.Sections("decoders"))
                    Read(part, steps);
                break;
            case "ByteLevel":
                steps.Add(new ByteLevelDecoder());
                break;
            case "ByteFallback":
                steps.Add(new ByteFallbackDecoder());
                break;
            case "Fuse":
                steps.Add(new FuseDecoder());
                break;
            case "Replace":
                steps.Add(new ReplaceDecoder(TextPattern.Read(section), section.Text("content")));
                break;
            case "Strip":
                string content = section.Text("content");
                if (content.EnumerateRunes().Count() != 1)
                    throw section.Error($"'content' must be one character, but is {JsonSection.Quote(content)}");
                steps.Add(new StripDecoder(content, section.Number("start"), section.Number("stop")));
                break;
            case "Metaspace":
                (string replacement, string scheme) = MetaspaceSplit.ReadScheme(section);
                steps.Add(new MetaspaceDecoder(replacement, scheme != "never"));
                break;
            case "WordPiece":
                steps.Add(new WordPieceDecoder(section.TextOrNull("prefix") ?? "##", section.Flag("cleanup", true)));
                break;
            case "BPEDecoder":
                steps.Add(new SuffixDecoder(section.TextOrNull("suffix") ?? "</w>"));
                break;
            case "CTC":
                steps.Add(new CtcDecoder(section.TextOrNull("pad_token") ?? "<pad>", section.TextOrNull("word_delimiter_token") ?? "|", section.Flag("cleanup", true)));
                break;
            default:
                throw section.UnknownType("Sequence, ByteLevel, ByteFallback, Fuse, Replace, Strip, Metaspace, WordPiece, BPEDecoder, CTC");
        }
    }
}

/// <summary>A decoder's work on a stream: takes tokens, or parts of one text, and passes on what is decided.</summary>
internal abstract class StreamStep
{
    /// <summary>Where decided text goes.</summary>
    public Action<string> Next { get; set; } = static _ => { };

    public abstract void Push(string token);

    /// <summary>The stream ends: passes on whatever is held back.</summary>
    public virtual void Flush()
    {
    }
}

/// <summary>A step that treats each token by itself, or with its position alone.</summary>
internal sealed class EachStep(Func<string, int, string> rewrite) : StreamStep
{
    private int _index;

    public override void Push(string token) => Next(rewrite(token, _index++));
}

/// <summary>A step behind one that joins, which cannot tell from parts of the text what becomes of it: waits for the end.</summary>
internal sealed class HeldStep(TokenDecoder decoder) : StreamStep
{
    private readonly StringBuilder _held = new();

    public override void Push(string token) => _held.Append(token);

    public override void Flush()
    {
        List<string> tokens = [_held.ToString()];
        _held.Clear();
        decoder.Decode(tokens);
        foreach (string token in tokens)
            Next(token);
    }
}

/// <summary>Byte-level tokens: their characters stand for bytes; invalid UTF-8 becomes U+FFFD per maximal subpart.</summary>
internal sealed class ByteLevelDecoder : TokenDecoder
{
    public override bool Joins => true;

    public override void Decode(List<string> tokens)
    {
        List<byte> bytes = [];
        foreach (string token in tokens)
            ByteAlphabet.AppendBytes(token, bytes);
        tokens.Clear();
        tokens.Add(Encoding.UTF8.GetString([.. bytes]));
    }

    public override StreamStep Stream(bool joined) => joined ? new HeldStep(this) : new Step();

    private sealed class Step : StreamStep
    {
        private readonly List<byte> _held = [];

        public override void Push(string token)
        {
            ByteAlphabet.AppendBytes(token, _held);
            Release(_held.Count - Utf8Tail.Length(CollectionsMarshal.AsSpan(_held)));
        }

        public override void Flush()
        {
            if (_held.Count > 0)
                Release(_held.Count);
        }

        private void Release(int count)
        {
            byte[] decided = [.. _held.GetRange(0, count)];
            _held.RemoveRange(0, count);
            Next(Encoding.UTF8.GetString(decided));
        }
    }
}

/// <summary>What the end of a run of bytes holds back: the beginning of a character.</summary>
internal static class Utf8Tail
{
    /// <summary>The number of bytes at the end that may become a character with the next bytes, 0 to 3.</summary>
    public static int Length(ReadOnlySpan<byte> bytes)
    {
        for (int length = Math.Min(3, bytes.Length); length > 0; length--)
            if (Rune.DecodeFromUtf8(bytes[^length..], out _, out _) == OperationStatus.NeedMoreData || IsSurrogateHalf(bytes[^length..]))
                return length;
        return 0;
    }

    /// <summary>
    /// Two of the three bytes of a surrogate half. They cannot become a character any more, but whoever decodes
    /// incrementally by the reference (Python's decoder) learns that with the third byte, and so do readers here.
    /// </summary>
    private static bool IsSurrogateHalf(ReadOnlySpan<byte> bytes) => bytes is [0xED, >= 0xA0 and <= 0xBF];
}

/// <summary>
/// Tokens <c>&lt;0xXX&gt;</c> are bytes: a run of them is text when it is valid UTF-8 as a whole, else one U+FFFD per byte.
/// A stream cannot see the whole run and judges character by character.
/// </summary>
internal sealed class ByteFallbackDecoder : TokenDecoder
{
    private const string Invalid = "\uFFFD";
    private static readonly UTF8Encoding s_strict = new(false, throwOnInvalidBytes: true);

    public override void Decode(List<string> tokens)
    {
        List<string> decoded = new(tokens.Count);
        List<byte> run = [];
        foreach (string token in tokens)
        {
            if (TryByte(token, out byte value))
            {
                run.Add(value);
                continue;
            }
            EndRun(run, decoded);
            decoded.Add(token);
        }
        EndRun(run, decoded);
        tokens.Clear();
        tokens.AddRange(decoded);
    }

    public override StreamStep Stream(bool joined) => joined ? new HeldStep(this) : new Step();

    private static void EndRun(List<byte> run, List<string> decoded)
    {
        if (run.Count == 0)
            return;
        byte[] bytes = [.. run];
        if (System.Text.Unicode.Utf8.IsValid(bytes))
            decoded.Add(s_strict.GetString(bytes));
        else
            decoded.AddRange(Enumerable.Repeat(Invalid, bytes.Length));
        run.Clear();
    }

    private static bool TryByte(string token, out byte value)
    {
        value = 0;
        return token.Length == 6 && token.StartsWith("<0x", StringComparison.Ordinal) && token[5] == '>'
            && byte.TryParse(token.AsSpan(3, 2), NumberStyles.AllowHexSpecifier, CultureInfo.InvariantCulture, out value);
    }

    private sealed class Step : StreamStep
    {
        private readonly List<byte> _held = [];

        public override void Push(string token)
        {
            if (!TryByte(token, out byte value))
            {
                Flush();
                Next(token);
                return;
            }
            _held.Add(value);
            while (_held.Count > 0)
            {
                ReadOnlySpan<byte> held = CollectionsMarshal.AsSpan(_held);
                if (Utf8Tail.Length(held) == held.Length)
                    return;
                OperationStatus status = Rune.DecodeFromUtf8(held, out Rune rune, out int taken);
                if (status != OperationStatus.Done)
                    taken = 1;
                Next(status == OperationStatus.Done ? rune.ToString() : Invalid);
                _held.RemoveRange(0, taken);
            }
        }

        public override void Flush()
        {
            int held = _held.Count;
            _held.Clear();
            for (int i = 0; i < held; i++)
                Next(Invalid);
        }
    }
}

/// <summary>Joins all tokens into one text.</summary>
internal sealed class FuseDecoder : TokenDecoder
{
    public override bool Joins => true;

    public override void Decode(List<string> tokens)
    {
        string joined = string.Concat(tokens);
        tokens.Clear();
        tokens.Add(joined);
    }

    public override StreamStep Stream(bool joined) => new EachStep(static (token, _) => token);
}

/// <summary>Replaces a text or pattern in every token.</summary>
internal sealed class ReplaceDecoder(TextPattern pattern, string content) : TokenDecoder
{
    public override void Decode(List<string> tokens)
    {
        for (int i = 0; i < tokens.Count; i++)
            tokens[i] = Rewrite(tokens[i]);
    }

    public string Rewrite(string token) => pattern.Replace(token, content);

    public override StreamStep Stream(bool joined) => (joined, pattern.Literal) switch
    {
        (true, null) => new HeldStep(this),
        (true, { Length: > 1 } literal) => new JoinedStep(literal, content),
        _ => new EachStep((token, _) => Rewrite(token)),
    };

    /// <summary>In one text that comes in parts, the end may be the beginning of a match: it is held back.</summary>
    private sealed class JoinedStep(string literal, string content) : StreamStep
    {
        private string _held = "";

        public override void Push(string token)
        {
            string text = _held + token;
            int after = 0;
            for (int at; (at = text.IndexOf(literal, after, StringComparison.Ordinal)) >= 0;)
                after = at + literal.Length;
            int keep = Math.Min(literal.Length - 1, text.Length - after);
            while (keep > 0 && !literal.StartsWith(text[^keep..], StringComparison.Ordinal))
                keep--;
            _held = text[^keep..];
            Next(text[..^keep].Replace(literal, content, StringComparison.Ordinal));
        }

        public override void Flush()
        {
            string held = _held;
            _held = "";
            if (held.Length > 0)
                Next(held);
        }
    }
}

/// <summary>Cuts up to <paramref name="start"/> of a character from the front of each token and up to <paramref name="stop"/> from its end.</summary>
internal sealed class StripDecoder(string character, int start, int stop) : TokenDecoder
{
    public override void Decode(List<string> tokens)
    {
        for (int i = 0; i < tokens.Count; i++)
            tokens[i] = Cut(tokens[i]);
    }

    private string Cut(string token)
    {
        int first = 0;
        for (int n = 0; n < start && string.CompareOrdinal(token, first, character, 0, character.Length) == 0; n++)
            first += character.Length;
        int last = token.Length;
        for (int n = 0; n < stop && last - character.Length >= first
            && string.CompareOrdinal(token, last - character.Length, character, 0, character.Length) == 0; n++)
            last -= character.Length;
        return token[first..last];
    }

    public override StreamStep Stream(bool joined) => joined
        ? new JoinedStep(character, start, stop)
        : new EachStep((token, _) => Cut(token));

    /// <summary>In one text that comes in parts: cuts at its very front, and holds back what may be its end.</summary>
    private sealed class JoinedStep(string character, int start, int stop) : StreamStep
    {
        private int _left = start;
        private int _held;

        public override void Push(string token)
        {
            int first = 0;
            while (_left > 0 && first < token.Length)
            {
                if (string.CompareOrdinal(token, first, character, 0, character.Length) != 0)
                {
                    _left = 0;
                    break;
                }
                first += character.Length;
                _left--;
            }
            int last = token.Length;
            while (stop > 0 && last - character.Length >= first
                && string.CompareOrdinal(token, last - character.Length, character, 0, character.Length) == 0)
                last -= character.Length;
            int trailing = (token.Length - last) / character.Length;
            if (last == first)
            {
                // Only strippable characters: they join those that are held, and all but the last few are decided.
                _held += trailing;
                Release(Math.Max(0, _held - stop));
                return;
            }
            Release(_held);
            int held = Math.Min(stop, trailing);
            Next(token[first..(token.Length - held * character.Length)]);
            _held = held;
        }

        private void Release(int count)
        {
            _held -= count;
            if (count > 0)
                Next(string.Concat(Enumerable.Repeat(character, count)));
        }
    }
}

/// <summary>The mark becomes a space; in the first token it vanishes where the pre-tokenizer had put one in front.</summary>
internal sealed class MetaspaceDecoder(string replacement, bool prepended) : TokenDecoder
{
    public override void Decode(List<string> tokens)
    {
        for (int i = 0; i < tokens.Count; i++)
            tokens[i] = Rewrite(tokens[i], i);
    }

    private string Rewrite(string token, int index) =>
        token.Replace(replacement, index == 0 && prepended ? "" : " ", StringComparison.Ordinal);

    // Of a joined text every part is part of the first token.
    public override StreamStep Stream(bool joined) =>
        new EachStep((token, index) => Rewrite(token, joined ? 0 : index));
}
