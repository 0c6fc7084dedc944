using System.Text;
using System.Text.Json;
using Repeng.Kernels;

namespace Repeng.Runtime.Tokenizers;

/// <summary>A text rewritten before it is split.</summary>
internal abstract class Normalizer
{
    public abstract string Normalize(string text);

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
        "Prepend" => new PrependNormalizer(section.Text("prepend")),
        "Replace" => new ReplaceNormalizer(TextPattern.Read(section), section.Text("content")),
        "Strip" => new StripNormalizer(section.Flag("strip_left", true), section.Flag("strip_right", true)),
        "ByteLevel" => new ByteLevelNormalizer(),
        _ => throw section.UnknownType("Sequence, NFC, NFD, NFKC, NFKD, Lowercase, StripAccents, Prepend, Replace, Strip, ByteLevel"),
    };
}

internal sealed class SequenceNormalizer(IReadOnlyList<Normalizer> steps) : Normalizer
{
    public override string Normalize(string text)
    {
        foreach (Normalizer step in steps)
            text = step.Normalize(text);
        return text;
    }
}

internal sealed class FormNormalizer(NormalizationForm form) : Normalizer
{
    public override string Normalize(string text) => UnicodeNormalization.Normalize(text, form);
}

/// <summary>Each code point's own lower case, without regard to its neighbours (no final sigma).</summary>
internal sealed class LowercaseNormalizer : Normalizer
{
    public override string Normalize(string text)
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

/// <summary>Drops every mark (Mn, Mc, Me).</summary>
internal sealed class StripAccentsNormalizer : Normalizer
{
    public override string Normalize(string text)
    {
        var kept = new StringBuilder(text.Length);
        foreach (Rune rune in text.EnumerateRunes())
            if (!CodePoints.IsMark(rune.Value))
                kept.Append(rune.ToString());
        return kept.ToString();
    }
}

/// <summary>Puts a text before every non-empty piece.</summary>
internal sealed class PrependNormalizer(string prefix) : Normalizer
{
    public override string Normalize(string text) => text.Length == 0 ? text : prefix + text;
}

internal sealed class ReplaceNormalizer(TextPattern pattern, string content) : Normalizer
{
    public override string Normalize(string text) => pattern.Replace(text, content);
}

internal sealed class StripNormalizer(bool left, bool right) : Normalizer
{
    public override string Normalize(string text)
    {
        int start = 0;
        int end = text.Length;
        while (left && start < end && char.IsWhiteSpace(text[start]))
            start++;
        while (right && end > start && char.IsWhiteSpace(text[end - 1]))
            end--;
        return text[start..end];
    }
}

/// <summary>The UTF-8 bytes of the text, each as its printable stand-in.</summary>
internal sealed class ByteLevelNormalizer : Normalizer
{
    public override string Normalize(string text) => ByteAlphabet.Map(text);
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

    public static TextPattern OfText(string literal) => new(literal, null);

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
        if (_literal is { Length: 0 })
            return;
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

        var matcher = new CodePointRegex.Matcher(_regex!);
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
    }

    public string Replace(string text, string content)
    {
        if (_literal is { Length: > 0 })
            return text.Replace(_literal, content, StringComparison.Ordinal);
        List<(int Start, int End)> matches = [];
        FindAll(text, matches);
        if (matches.Count == 0)
            return text;
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
