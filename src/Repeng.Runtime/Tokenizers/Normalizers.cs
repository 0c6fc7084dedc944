using System.Text;
using System.Text.Json;
using Repeng.Kernels;

namespace Repeng.Runtime.Tokenizers;

/// <summary>A text rewritten before it is split.</summary>
internal abstract class Normalizer
{
    /// <param name="atStart">Becomes false when the front of the text is cut off, so that the result no longer begins where the input did.</param>
    public abstract string Normalize(string text, ref bool atStart);

    public string Normalize(string text)
    {
        bool atStart = true;
        return Normalize(text, ref atStart);
    }

    /// <exception cref="UserErrorException">The section is malformed or names a normalizer that is not supported.</exception>
    public static Normalizer Read(JsonSection section) => section.Type switch
    {
        "Sequence" => new SequenceNormalizer([.. section.Sections("normalizers").Select(Read)]),
        "NFC" => new FormNormalizer(NormalizationForm.FormC),
        "NFD" => new FormNormalizer(NormalizationForm.FormD),
        "NFKC" => new FormNormalizer(NormalizationForm.FormKC),
        "NFKD" => new FormNormalizer(NormalizationForm.FormKD),
        "Lowercase" => new LowercaseNormalizer(),
        "StripAccents" => new StripAccentsNormalizer(),
        "Nmt" => new NmtNormalizer(),
        "BertNormalizer" => ReadBert(section),
        "Precompiled" => PrecompiledNormalizer.ReadFrom(section),
        "Prepend" => new PrependNormalizer(section.Text("prepend")),
        "Replace" => new ReplaceNormalizer(TextPattern.Read(section), section.Text("content")),
        "Strip" => new StripNormalizer(section.Flag("strip_left", true), section.Flag("strip_right", true)),
        "ByteLevel" => new ByteLevelNormalizer(),
        _ => throw section.UnknownType("Sequence, NFC, NFD, NFKC, NFKD, Lowercase, StripAccents, Nmt, BertNormalizer, Precompiled, Prepend, Replace, Strip, ByteLevel"),
    };

    private static BertNormalizer ReadBert(JsonSection section)
    {
        bool lowercase = section.Flag("lowercase", true);
        return new BertNormalizer(section.Flag("clean_text", true), section.Flag("handle_chinese_chars", true), section.Flag("strip_accents", lowercase), lowercase);
    }
}

internal sealed class SequenceNormalizer(IReadOnlyList<Normalizer> steps) : Normalizer
{
    public override string Normalize(string text, ref bool atStart)
    {
        foreach (Normalizer step in steps)
            text = step.Normalize(text, ref atStart);
        return text;
    }
}

internal sealed class FormNormalizer(NormalizationForm form) : Normalizer
{
    public override string Normalize(string text, ref bool atStart) => UnicodeNormalization.Normalize(text, form);
}

/// <summary>Each code point's own lower case, without regard to its neighbours (no final sigma).</summary>
internal sealed class LowercaseNormalizer : Normalizer
{
    public override string Normalize(string text, ref bool atStart)
    {
        if (!text.AsSpan().ContainsAnyExceptInRange('\0', '\x7F'))
            return text.ToLowerInvariant();
        var lowered = new StringBuilder(text.Length);
        foreach (Rune rune in text.EnumerateRunes())
        {
            // U+0130 is the one character whose lower case is two: i and a dot above.
            if (rune.Value == 0x130)
                lowered.Append("i\u0307");
            else
                lowered.Append(Rune.ToLowerInvariant(rune).ToString());
        }
        return lowered.ToString();
    }
}

/// <summary>Puts a text before every non-empty piece.</summary>
internal sealed class PrependNormalizer(string prefix) : Normalizer
{
    public override string Normalize(string text, ref bool atStart) => text.Length == 0 ? text : prefix + text;
}

internal sealed class ReplaceNormalizer(TextPattern pattern, string content) : Normalizer
{
    public override string Normalize(string text, ref bool atStart)
    {
        string replaced = pattern.Replace(text, content, out bool cutsFront);
        atStart &= !cutsFront;
        return replaced;
    }
}

internal sealed class StripNormalizer(bool left, bool right) : Normalizer
{
    public override string Normalize(string text, ref bool atStart)
    {
        int start = 0;
        int end = text.Length;
        while (left && start < end && char.IsWhiteSpace(text[start]))
            start++;
        while (right && end > start && char.IsWhiteSpace(text[end - 1]))
            end--;
        atStart &= start == 0;
        return text[start..end];
    }
}

/// <summary>The UTF-8 bytes of the text, each as its printable stand-in.</summary>
internal sealed class ByteLevelNormalizer : Normalizer
{
    public override string Normalize(string text, ref bool atStart) => ByteAlphabet.Map(text);
}

/// <summary>What a Replace or Split looks for: a literal text or a regular expression.</summary>
internal sealed class TextPattern
{
    private readonly string? _literal;
    private readonly CodePointRegex? _regex;

    private TextPattern(string? literal, CodePointRegex? regex)
    {
        _literal = literal;
        _regex = regex;
    }

    /// <summary>The literal text; null for a regular expression.</summary>
    public string? Literal => _literal;

    /// <summary>The regular expression; null for a literal text.</summary>
    public CodePointRegex? Regex => _regex;

    /// <summary>An empty text matches between all characters, as an empty expression does.</summary>
    public static TextPattern OfText(string literal) =>
        literal.Length == 0 ? OfRegex("", "an empty pattern") : new TextPattern(literal, null);

    public static TextPattern OfRegex(string pattern, string where) => new(null, CodePointRegex.Parse(pattern, where));

    /// <summary>Reads the property <c>pattern</c>: {"String": …} or {"Regex": …}.</summary>
    public static TextPattern Read(JsonSection section)
    {
        foreach ((string kind, JsonElement value) in section.Section("pattern").Properties())
        {
            string text = section.AsText(value) ?? throw section.Error("'pattern' must hold a string");
            return kind switch
            {
                "String" => OfText(text),
                "Regex" => OfRegex(text, section.Place),
                _ => throw section.Error($"the pattern kind {JsonSection.Quote(kind)} is not supported; supported are String, Regex"),
            };
        }
        throw section.Error("'pattern' is empty; it must hold String or Regex");
    }

    /// <summary>Appends the matches in order; each begins where the last one ended or later, and a match may be empty.</summary>
    public void FindAll(ReadOnlySpan<char> text, List<(int Start, int End)> matches)
    {
        if (_literal is not null)
        {
            for (int at = 0; ;)
            {
                int offset = text[at..].IndexOf(_literal, StringComparison.Ordinal);
                if (offset < 0)
                    return;
                matches.Add((at + offset, at + offset + _literal.Length));
                at += offset + _literal.Length;
            }
        }

        CodePointRegex.Matcher matcher = _regex!.Rent();
        int last = -1;
        for (int at = 0; at <= text.Length && matcher.Find(text, at, out int start, out int end);)
        {
            at = end;
            if (start == end)
            {
                // The search moves on by one character; an empty match right after a match does not count.
                if (end < text.Length)
                {
                    CodePoints.At(text, end, out int length);
                    at += length;
                }
                else
                {
                    at++;
                }
                if (last == end)
                    continue;
            }
            last = end;
            matches.Add((start, end));
        }
        _regex.Return(matcher);
    }

    public string Replace(string text, string content) => Replace(text, content, out _);

    /// <param name="cutsFront">True when a match at the front is replaced by nothing.</param>
    public string Replace(string text, string content, out bool cutsFront)
    {
        cutsFront = false;
        if (_literal is not null)
        {
            cutsFront = content.Length == 0 && text.StartsWith(_literal, StringComparison.Ordinal);
            return text.Replace(_literal, content, StringComparison.Ordinal);
        }
        List<(int Start, int End)> matches = [];
        FindAll(text, matches);
        if (matches.Count == 0)
            return text;
        cutsFront = content.Length == 0 && matches[0] is { Start: 0, End: > 0 };
        var replaced = new StringBuilder(text.Length);
        int done = 0;
        foreach ((int start, int end) in matches)
        {
            replaced.Append(text, done, start - done).Append(content);
            done = end;
        }
        return replaced.Append(text, done, text.Length - done).ToString();
    }
}
