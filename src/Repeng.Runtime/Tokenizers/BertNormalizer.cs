using System.Text;

namespace Repeng.Runtime.Tokenizers;

/// <summary>A rewriting of single characters: each one stays, becomes another, or drops out.</summary>
internal abstract class CharacterNormalizer : Normalizer
{
    /// <summary>What <see cref="Rewrite"/> gives for a character that drops out.</summary>
    protected const int Dropped = -1;

    /// <summary>What becomes of a code point: a code point, or <see cref="Dropped"/>.</summary>
    protected abstract int Rewrite(int codePoint);

    public override string Normalize(string text, ref bool atStart)
    {
        StringBuilder? rewritten = null;
        for (int i = 0; i < text.Length;)
        {
            int point = CodePoints.At(text, i, out int length);
            int now = Rewrite(point);
            if (now != point)
                rewritten ??= new StringBuilder(text, 0, i, text.Length);
            if (now == Dropped)
                atStart &= i > 0;
            else
                rewritten?.Append(new Rune(now).ToString());
            i += length;
        }
        return rewritten?.ToString() ?? text;
    }
}

/// <summary>Drops every mark (general category M); does not decompose, so precomposed letters keep their accents.</summary>
internal sealed class StripAccentsNormalizer : CharacterNormalizer
{
    protected override int Rewrite(int codePoint) => UnicodeProperties.IsMark(codePoint) ? Dropped : codePoint;
}

/// <summary>The cleaning of SentencePiece's nmt rules: control characters drop out, other blanks become a space.</summary>
internal sealed class NmtNormalizer : CharacterNormalizer
{
    protected override int Rewrite(int codePoint) => codePoint switch
    {
        (>= 0x01 and <= 0x08) or 0x0B or (>= 0x0E and <= 0x1F) or 0x7F or 0x8F or 0x9F => Dropped,
        0x09 or 0x0A or 0x0C or 0x0D or 0x1680 or (>= 0x200B and <= 0x200F) or 0x2028 or 0x2029 or 0x2581 or 0xFEFF or 0xFFFD => ' ',
        _ => codePoint,
    };
}

/// <summary>
/// BERT's basic tokenizer before it splits: control characters drop out and blanks become spaces, ideographs get spaces around,
/// accents go (where not said, exactly when the text is lowered), letters become small.
/// </summary>
internal sealed class BertNormalizer(bool cleanText, bool spacesIdeographs, bool stripAccents, bool lowercase) : Normalizer
{
    private static readonly LowercaseNormalizer s_lowercase = new();

    public override string Normalize(string text, ref bool atStart)
    {
        if (cleanText)
            text = s_clean.Normalize(text, ref atStart);
        if (spacesIdeographs)
            text = SpaceIdeographs(text);
        if (stripAccents)
            text = s_marks.Normalize(UnicodeNormalization.Normalize(text, NormalizationForm.FormD), ref atStart);
        return lowercase ? s_lowercase.Normalize(text, ref atStart) : text;
    }

    private static readonly Cleaning s_clean = new();
    private static readonly NonSpacingMarks s_marks = new();

    private static string SpaceIdeographs(string text)
    {
        // Below this no character is one.
        if (!text.AsSpan().ContainsAnyInRange('\u3400', char.MaxValue))
            return text;
        var spaced = new StringBuilder(text.Length + 16);
        foreach (Rune rune in text.EnumerateRunes())
        {
            bool ideograph = IsIdeograph(rune.Value);
            spaced.Append(ideograph ? " " : "").Append(rune.ToString()).Append(ideograph ? " " : "");
        }
        return spaced.ToString();
    }

    /// <summary>The blocks that the original takes for Chinese; U+2B820–2B91F are not in its list, by an error that vocabularies now depend on.</summary>
    private static bool IsIdeograph(int codePoint) => codePoint is (>= 0x4E00 and <= 0x9FFF) or (>= 0x3400 and <= 0x4DBF)
        or (>= 0x20000 and <= 0x2A6DF) or (>= 0x2A700 and <= 0x2B73F) or (>= 0x2B740 and <= 0x2B81F) or (>= 0x2B920 and <= 0x2CEAF)
        or (>= 0xF900 and <= 0xFAFF) or (>= 0x2F800 and <= 0x2FA1F);

    private sealed class Cleaning : CharacterNormalizer
    {
        protected override int Rewrite(int codePoint) => codePoint switch
        {
            '\t' or '\n' or '\r' => ' ',
            0 or 0xFFFD => Dropped,
            _ => UnicodeProperties.IsOther(codePoint) ? Dropped : CodePoints.IsWhiteSpace(codePoint) ? ' ' : codePoint,
        };
    }

    private sealed class NonSpacingMarks : CharacterNormalizer
    {
        protected override int Rewrite(int codePoint) => UnicodeProperties.IsNonSpacingMark(codePoint) ? Dropped : codePoint;
    }
}
