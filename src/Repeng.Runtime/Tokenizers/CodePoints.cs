using System.Globalization;
using System.Text;

namespace Repeng.Runtime.Tokenizers;

/// <summary>
/// Character classes over whole code points, as the tokenizer library that made the files sees them.
/// Texts are UTF-16; <see cref="Repair"/> makes sure that surrogates come in pairs.
/// </summary>
internal static class CodePoints
{
    private const uint MarkMask = 1u << (int)UnicodeCategory.NonSpacingMark
        | 1u << (int)UnicodeCategory.SpacingCombiningMark | 1u << (int)UnicodeCategory.EnclosingMark;

    private const uint NumberMask = 1u << (int)UnicodeCategory.DecimalDigitNumber
        | 1u << (int)UnicodeCategory.LetterNumber | 1u << (int)UnicodeCategory.OtherNumber;

    private const uint LetterMask = 1u << (int)UnicodeCategory.UppercaseLetter | 1u << (int)UnicodeCategory.LowercaseLetter
        | 1u << (int)UnicodeCategory.TitlecaseLetter | 1u << (int)UnicodeCategory.ModifierLetter
        | 1u << (int)UnicodeCategory.OtherLetter;

    private const uint PunctuationMask = 1u << (int)UnicodeCategory.ConnectorPunctuation
        | 1u << (int)UnicodeCategory.DashPunctuation | 1u << (int)UnicodeCategory.OpenPunctuation
        | 1u << (int)UnicodeCategory.ClosePunctuation | 1u << (int)UnicodeCategory.InitialQuotePunctuation
        | 1u << (int)UnicodeCategory.FinalQuotePunctuation | 1u << (int)UnicodeCategory.OtherPunctuation;

    private const uint WordMask = LetterMask | MarkMask | 1u << (int)UnicodeCategory.DecimalDigitNumber
        | 1u << (int)UnicodeCategory.LetterNumber | 1u << (int)UnicodeCategory.ConnectorPunctuation;

    /// <summary>Punctuation that came with later versions of Unicode, or characters that became it.</summary>
    private static readonly (int First, int Last)[] s_newPunctuation =
    [
        (0x61D, 0x61D), (0x9FD, 0x9FD), (0xA76, 0xA76), (0xC77, 0xC77), (0xC84, 0xC84), (0x1B4E, 0x1B4F), (0x1B7D, 0x1B7F),
        (0x2E43, 0x2E4F), (0x2E52, 0x2E5D), (0x10D6E, 0x10D6E), (0x10EAD, 0x10EAD), (0x10F55, 0x10F59), (0x10F86, 0x10F89),
        (0x113D4, 0x113D5), (0x113D7, 0x113D8), (0x1144B, 0x1144F), (0x1145A, 0x1145B), (0x1145D, 0x1145D), (0x11660, 0x1166C),
        (0x116B9, 0x116B9), (0x1183B, 0x1183B), (0x11944, 0x11946), (0x119E2, 0x119E2), (0x11A3F, 0x11A46), (0x11A9A, 0x11A9C),
        (0x11A9E, 0x11AA2), (0x11B00, 0x11B09), (0x11BE1, 0x11BE1), (0x11C41, 0x11C45), (0x11C70, 0x11C71), (0x11EF7, 0x11EF8),
        (0x11F43, 0x11F4F), (0x11FFF, 0x11FFF), (0x12FF1, 0x12FF2), (0x16D6D, 0x16D6F), (0x16E97, 0x16E9A), (0x16FE2, 0x16FE2),
        (0x1E5FF, 0x1E5FF), (0x1E95E, 0x1E95F),
    ];

    /// <summary>The code point at <paramref name="index"/> and how many UTF-16 units it takes. A lone surrogate stands for itself.</summary>
    public static int At(ReadOnlySpan<char> text, int index, out int length)
    {
        char c = text[index];
        if (char.IsHighSurrogate(c) && index + 1 < text.Length && char.IsLowSurrogate(text[index + 1]))
        {
            length = 2;
            return char.ConvertToUtf32(c, text[index + 1]);
        }
        length = 1;
        return c;
    }

    /// <summary>The code point that ends just before <paramref name="end"/>, which must be above 0.</summary>
    public static int Before(ReadOnlySpan<char> text, int end, out int length)
    {
        char c = text[end - 1];
        if (char.IsLowSurrogate(c) && end >= 2 && char.IsHighSurrogate(text[end - 2]))
        {
            length = 2;
            return char.ConvertToUtf32(text[end - 2], c);
        }
        length = 1;
        return c;
    }

    /// <summary>The number of code points of a text whose surrogates come in pairs.</summary>
    public static int Count(ReadOnlySpan<char> text)
    {
        int count = text.Length;
        foreach (char c in text)
            count -= char.IsLowSurrogate(c) ? 1 : 0;
        return count;
    }

    public static uint CategoryBit(int codePoint) => 1u << (int)CharUnicodeInfo.GetUnicodeCategory(codePoint);

    /// <summary>White_Space of Unicode: U+0009–000D, 0020, 0085, 00A0, 1680, 2000–200A, 2028, 2029, 202F, 205F, 3000. All lie in the BMP.</summary>
    public static bool IsWhiteSpace(int codePoint) => codePoint <= char.MaxValue && char.IsWhiteSpace((char)codePoint);

    /// <summary>General category N: Nd, Nl or No.</summary>
    public static bool IsNumeric(int codePoint) => (CategoryBit(codePoint) & NumberMask) != 0;

    /// <summary>General category P as the library's older Unicode tables have it, or one of ASCII's symbols.</summary>
    public static bool IsPunctuation(int codePoint)
    {
        if (codePoint < 128)
            return char.IsPunctuation((char)codePoint) || char.IsSymbol((char)codePoint);
        if ((CategoryBit(codePoint) & PunctuationMask) == 0)
            return codePoint is 0x166D or 0x111C9;
        foreach ((int first, int last) in s_newPunctuation)
            if (codePoint >= first && codePoint <= last)
                return false;
        return true;
    }

    /// <summary>
    /// A word character as UTS #18 defines \w: Alphabetic, marks, Nd, Pc and the joiners.
    /// Alphabetic beyond letters, marks and Nl are the circled and squared Latin letters.
    /// </summary>
    public static bool IsWord(int codePoint) =>
        (CategoryBit(codePoint) & WordMask) != 0
        || codePoint is 0x200C or 0x200D or (>= 0x24B6 and <= 0x24E9)
            or (>= 0x1F130 and <= 0x1F149) or (>= 0x1F150 and <= 0x1F169) or (>= 0x1F170 and <= 0x1F189);

    /// <summary>Replaces each lone surrogate by U+FFFD; returns the same instance when there is none.</summary>
    public static string Repair(string text)
    {
        int i = text.AsSpan().IndexOfAnyInRange('\uD800', '\uDFFF');
        if (i < 0)
            return text;
        StringBuilder? repaired = null;
        for (; i < text.Length; i++)
        {
            char c = text[i];
            if (char.IsHighSurrogate(c) && i + 1 < text.Length && char.IsLowSurrogate(text[i + 1]))
                i++;
            else if (char.IsSurrogate(c))
                (repaired ??= new StringBuilder(text))[i] = '\uFFFD';
        }
        return repaired?.ToString() ?? text;
    }
}
