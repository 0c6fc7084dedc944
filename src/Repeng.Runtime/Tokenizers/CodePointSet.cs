using System.Globalization;
using System.Runtime.CompilerServices;

namespace Repeng.Runtime.Tokenizers;

/// <summary>
/// An immutable set of code points, built as a character class of a regular expression is written:
/// categories, ranges, other sets, an intersection, a negation. ASCII answers come from a bit map.
/// </summary>
internal sealed class CodePointSet
{
    private readonly uint _categories;
    private readonly (int First, int Last)[] _ranges;
    private readonly CodePointSet[] _parts;
    private readonly CodePointSet? _within;
    private readonly bool _negated;
    private readonly ulong _low;
    private readonly ulong _high;

    private CodePointSet(uint categories, (int, int)[] ranges, CodePointSet[] parts, CodePointSet? within, bool negated)
    {
        _categories = categories;
        _ranges = ranges;
        _parts = parts;
        _within = within;
        _negated = negated;
        for (int c = 0; c < 64; c++)
        {
            _low |= Evaluate(c) ? 1ul << c : 0;
            _high |= Evaluate(c + 64) ? 1ul << c : 0;
        }
    }

    /// <summary>Everything that the categories (a mask of <see cref="UnicodeCategory"/> bits), the ranges or one of the sets hold.</summary>
    public static CodePointSet Union(uint categories, IEnumerable<(int First, int Last)> ranges, params IEnumerable<CodePointSet> parts) =>
        new(categories, [.. ranges], [.. parts], null, false);

    public static CodePointSet Of(params (int First, int Last)[] ranges) => new(0, ranges, [], null, false);

    public static CodePointSet OfCategories(uint categories) => new(categories, [], [], null, false);

    public CodePointSet Negate() => new(_categories, _ranges, _parts, _within, !_negated);

    public CodePointSet Intersect(CodePointSet other) => new(0, [], [this], other, false);

    /// <summary>\s: White_Space of Unicode.</summary>
    public static CodePointSet WhiteSpace { get; } = Union(
        Bits(UnicodeCategory.SpaceSeparator, UnicodeCategory.LineSeparator, UnicodeCategory.ParagraphSeparator),
        [(0x09, 0x0D), (0x85, 0x85)]);

    public static CodePointSet DecimalDigit { get; } = OfCategories(Bits(UnicodeCategory.DecimalDigitNumber));

    /// <summary>
    /// \w of Oniguruma inside a character class: letters and other alphabetic characters, marks, Nd and Pc, but not
    /// the joiners that <see cref="CodePoints.IsWord"/> has.
    /// </summary>
    public static CodePointSet WordInClass { get; } = Union(Property("L") | Property("M")
        | Bits(UnicodeCategory.DecimalDigitNumber, UnicodeCategory.LetterNumber, UnicodeCategory.ConnectorPunctuation),
        [(0x24B6, 0x24E9), (0x1F130, 0x1F149), (0x1F150, 0x1F169), (0x1F170, 0x1F189)]);

    /// <summary>\w and \b of Oniguruma by themselves: below U+0100 another table counts, with the superscripts and fractions of Latin-1.</summary>
    public static CodePointSet Word { get; } = Union(0, [(0xB2, 0xB3), (0xB9, 0xB9), (0xBC, 0xBE)], WordInClass);

    public static CodePointSet AnyButNewline { get; } = Of(('\n', '\n')).Negate();

    /// <summary>Script=Han, as far as Unicode 16 has assigned it.</summary>
    public static CodePointSet Han { get; } = Of(
        (0x2E80, 0x2E99), (0x2E9B, 0x2EF3), (0x2F00, 0x2FD5), (0x3005, 0x3005), (0x3007, 0x3007), (0x3021, 0x3029),
        (0x3038, 0x303B), (0x3400, 0x4DBF), (0x4E00, 0x9FFF), (0xF900, 0xFA6D), (0xFA70, 0xFAD9), (0x16FE2, 0x16FE3),
        (0x16FF0, 0x16FF1), (0x20000, 0x2A6DF), (0x2A700, 0x2B739), (0x2B740, 0x2B81D), (0x2B820, 0x2CEA1),
        (0x2CEB0, 0x2EBE0), (0x2EBF0, 0x2EE5D), (0x2F800, 0x2FA1D), (0x30000, 0x3134A), (0x31350, 0x323AF));

    /// <summary>The category bits of a general category written short (<c>Lu</c>, <c>N</c>) or long (<c>Letter</c>); 0 when unknown.</summary>
    public static uint Property(string name) => name switch
    {
        "L" or "Letter" => Bits(UnicodeCategory.UppercaseLetter, UnicodeCategory.LowercaseLetter,
            UnicodeCategory.TitlecaseLetter, UnicodeCategory.ModifierLetter, UnicodeCategory.OtherLetter),
        "Lu" => Bits(UnicodeCategory.UppercaseLetter),
        "Ll" => Bits(UnicodeCategory.LowercaseLetter),
        "Lt" => Bits(UnicodeCategory.TitlecaseLetter),
        "Lm" => Bits(UnicodeCategory.ModifierLetter),
        "Lo" => Bits(UnicodeCategory.OtherLetter),
        "M" or "Mark" => Bits(UnicodeCategory.NonSpacingMark, UnicodeCategory.SpacingCombiningMark, UnicodeCategory.EnclosingMark),
        "Mn" => Bits(UnicodeCategory.NonSpacingMark),
        "Mc" => Bits(UnicodeCategory.SpacingCombiningMark),
        "Me" => Bits(UnicodeCategory.EnclosingMark),
        "N" or "Number" => Bits(UnicodeCategory.DecimalDigitNumber, UnicodeCategory.LetterNumber, UnicodeCategory.OtherNumber),
        "Nd" => Bits(UnicodeCategory.DecimalDigitNumber),
        "Nl" => Bits(UnicodeCategory.LetterNumber),
        "No" => Bits(UnicodeCategory.OtherNumber),
        "P" or "Punctuation" => Bits(UnicodeCategory.ConnectorPunctuation, UnicodeCategory.DashPunctuation,
            UnicodeCategory.OpenPunctuation, UnicodeCategory.ClosePunctuation, UnicodeCategory.InitialQuotePunctuation,
            UnicodeCategory.FinalQuotePunctuation, UnicodeCategory.OtherPunctuation),
        "Pc" => Bits(UnicodeCategory.ConnectorPunctuation),
        "Pd" => Bits(UnicodeCategory.DashPunctuation),
        "Ps" => Bits(UnicodeCategory.OpenPunctuation),
        "Pe" => Bits(UnicodeCategory.ClosePunctuation),
        "Pi" => Bits(UnicodeCategory.InitialQuotePunctuation),
        "Pf" => Bits(UnicodeCategory.FinalQuotePunctuation),
        "Po" => Bits(UnicodeCategory.OtherPunctuation),
        "S" or "Symbol" => Bits(UnicodeCategory.MathSymbol, UnicodeCategory.CurrencySymbol,
            UnicodeCategory.ModifierSymbol, UnicodeCategory.OtherSymbol),
        "Sm" => Bits(UnicodeCategory.MathSymbol),
        "Sc" => Bits(UnicodeCategory.CurrencySymbol),
        "Sk" => Bits(UnicodeCategory.ModifierSymbol),
        "So" => Bits(UnicodeCategory.OtherSymbol),
        "Z" or "Separator" => Bits(UnicodeCategory.SpaceSeparator, UnicodeCategory.LineSeparator, UnicodeCategory.ParagraphSeparator),
        "Zs" => Bits(UnicodeCategory.SpaceSeparator),
        "Zl" => Bits(UnicodeCategory.LineSeparator),
        "Zp" => Bits(UnicodeCategory.ParagraphSeparator),
        "C" or "Other" => Bits(UnicodeCategory.Control, UnicodeCategory.Format, UnicodeCategory.Surrogate,
            UnicodeCategory.PrivateUse, UnicodeCategory.OtherNotAssigned),
        "Cc" => Bits(UnicodeCategory.Control),
        "Cf" => Bits(UnicodeCategory.Format),
        "Co" => Bits(UnicodeCategory.PrivateUse),
        "Cn" => Bits(UnicodeCategory.OtherNotAssigned),
        _ => 0,
    };

    /// <summary>Answers for 256 code units at a time, made when the first of them is asked for.</summary>
    private readonly ulong[]?[] _pages = new ulong[256][];

    /// <summary>The same as <see cref="Contains"/> for a code unit that is no surrogate.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public bool ContainsUnit(char c)
    {
        ulong[] page = _pages[c >> 8] ?? MakePage(c >> 8);
        return (page[c >> 6 & 3] >> (c & 63) & 1) != 0;
    }

    private ulong[] MakePage(int number)
    {
        var page = new ulong[4];
        for (int i = 0; i < 256; i++)
            page[i >> 6] |= Contains(number << 8 | i) ? 1ul << (i & 63) : 0;
        _pages[number] = page;
        return page;
    }

    public bool Contains(int codePoint) =>
        codePoint < 64 ? (_low >> codePoint & 1) != 0
        : codePoint < 128 ? (_high >> (codePoint - 64) & 1) != 0
        : Evaluate(codePoint);

    private bool Evaluate(int codePoint)
    {
        bool inside = _categories != 0 && (_categories & CodePoints.CategoryBit(codePoint)) != 0;
        foreach ((int first, int last) in _ranges)
            inside |= codePoint >= first && codePoint <= last;
        for (int i = 0; i < _parts.Length && !inside; i++)
            inside = _parts[i].Contains(codePoint);
        if (inside && _within is not null)
            inside = _within.Contains(codePoint);
        return inside != _negated;
    }

    private static uint Bits(params ReadOnlySpan<UnicodeCategory> categories)
    {
        uint mask = 0;
        foreach (UnicodeCategory category in categories)
            mask |= 1u << (int)category;
        return mask;
    }
}
