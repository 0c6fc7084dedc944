using System.Collections.Frozen;
using System.Globalization;
using System.Text;

namespace Repeng.Runtime.Chat.Jinja;

/// <summary>
/// Upper, lower and title case as in Python: the simple mappings of Unicode plus those that give several characters
/// (SpecialCasing.txt of Unicode) and the final sigma, none of which .NET applies.
/// </summary>
internal static class PyCase
{
    // Each entry: a character, then its upper case. Besides those with several characters: dotless i and long s, which .NET leaves alone.
    private const string UpperSpecial =
        "\u00dfSS|\u0131I|\u0149\u02bcN|\u017fS|\u01f0J\u030c|\u0390\u0399\u0308\u0301|\u03b0\u03a5\u0308\u0301|" +
        "\u0587\u0535\u0552|\u1e96H\u0331|\u1e97T\u0308|\u1e98W\u030a|\u1e99Y\u030a|\u1e9aA\u02be|\u1f50\u03a5\u0313|" +
        "\u1f52\u03a5\u0313\u0300|\u1f54\u03a5\u0313\u0301|\u1f56\u03a5\u0313\u0342|\u1f80\u1f08\u0399|\u1f81\u1f09\u0399|" +
        "\u1f82\u1f0a\u0399|\u1f83\u1f0b\u0399|\u1f84\u1f0c\u0399|\u1f85\u1f0d\u0399|\u1f86\u1f0e\u0399|\u1f87\u1f0f\u0399|" +
        "\u1f88\u1f08\u0399|\u1f89\u1f09\u0399|\u1f8a\u1f0a\u0399|\u1f8b\u1f0b\u0399|\u1f8c\u1f0c\u0399|\u1f8d\u1f0d\u0399|" +
        "\u1f8e\u1f0e\u0399|\u1f8f\u1f0f\u0399|\u1f90\u1f28\u0399|\u1f91\u1f29\u0399|\u1f92\u1f2a\u0399|\u1f93\u1f2b\u0399|" +
        "\u1f94\u1f2c\u0399|\u1f95\u1f2d\u0399|\u1f96\u1f2e\u0399|\u1f97\u1f2f\u0399|\u1f98\u1f28\u0399|\u1f99\u1f29\u0399|" +
        "\u1f9a\u1f2a\u0399|\u1f9b\u1f2b\u0399|\u1f9c\u1f2c\u0399|\u1f9d\u1f2d\u0399|\u1f9e\u1f2e\u0399|\u1f9f\u1f2f\u0399|" +
        "\u1fa0\u1f68\u0399|\u1fa1\u1f69\u0399|\u1fa2\u1f6a\u0399|\u1fa3\u1f6b\u0399|\u1fa4\u1f6c\u0399|\u1fa5\u1f6d\u0399|" +
        "\u1fa6\u1f6e\u0399|\u1fa7\u1f6f\u0399|\u1fa8\u1f68\u0399|\u1fa9\u1f69\u0399|\u1faa\u1f6a\u0399|\u1fab\u1f6b\u0399|" +
        "\u1fac\u1f6c\u0399|\u1fad\u1f6d\u0399|\u1fae\u1f6e\u0399|\u1faf\u1f6f\u0399|\u1fb2\u1fba\u0399|\u1fb3\u0391\u0399|" +
        "\u1fb4\u0386\u0399|\u1fb6\u0391\u0342|\u1fb7\u0391\u0342\u0399|\u1fbc\u0391\u0399|\u1fc2\u1fca\u0399|" +
        "\u1fc3\u0397\u0399|\u1fc4\u0389\u0399|\u1fc6\u0397\u0342|\u1fc7\u0397\u0342\u0399|\u1fcc\u0397\u0399|" +
        "\u1fd2\u0399\u0308\u0300|\u1fd3\u0399\u0308\u0301|\u1fd6\u0399\u0342|\u1fd7\u0399\u0308\u0342|" +
        "\u1fe2\u03a5\u0308\u0300|\u1fe3\u03a5\u0308\u0301|\u1fe4\u03a1\u0313|\u1fe6\u03a5\u0342|\u1fe7\u03a5\u0308\u0342|" +
        "\u1ff2\u1ffa\u0399|\u1ff3\u03a9\u0399|\u1ff4\u038f\u0399|\u1ff6\u03a9\u0342|\u1ff7\u03a9\u0342\u0399|" +
        "\u1ffc\u03a9\u0399|\ufb00FF|\ufb01FI|\ufb02FL|\ufb03FFI|\ufb04FFL|\ufb05ST|\ufb06ST|\ufb13\u0544\u0546|" +
        "\ufb14\u0544\u0535|\ufb15\u0544\u053b|\ufb16\u054e\u0546|\ufb17\u0544\u053d";

    // Each entry: a character, then its title case where that is not its upper case. Georgian letters (U+10D0–10FF) stay as they are.
    private const string TitleSpecial =
        "\u00dfSs|\u01c4\u01c5|\u01c5\u01c5|\u01c6\u01c5|\u01c7\u01c8|\u01c8\u01c8|\u01c9\u01c8|\u01ca\u01cb|\u01cb\u01cb|" +
        "\u01cc\u01cb|\u01f1\u01f2|\u01f2\u01f2|\u01f3\u01f2|\u0587\u0535\u0582|\u1f80\u1f88|\u1f81\u1f89|\u1f82\u1f8a|" +
        "\u1f83\u1f8b|\u1f84\u1f8c|\u1f85\u1f8d|\u1f86\u1f8e|\u1f87\u1f8f|\u1f88\u1f88|\u1f89\u1f89|\u1f8a\u1f8a|\u1f8b\u1f8b|" +
        "\u1f8c\u1f8c|\u1f8d\u1f8d|\u1f8e\u1f8e|\u1f8f\u1f8f|\u1f90\u1f98|\u1f91\u1f99|\u1f92\u1f9a|\u1f93\u1f9b|\u1f94\u1f9c|" +
        "\u1f95\u1f9d|\u1f96\u1f9e|\u1f97\u1f9f|\u1f98\u1f98|\u1f99\u1f99|\u1f9a\u1f9a|\u1f9b\u1f9b|\u1f9c\u1f9c|\u1f9d\u1f9d|" +
        "\u1f9e\u1f9e|\u1f9f\u1f9f|\u1fa0\u1fa8|\u1fa1\u1fa9|\u1fa2\u1faa|\u1fa3\u1fab|\u1fa4\u1fac|\u1fa5\u1fad|\u1fa6\u1fae|" +
        "\u1fa7\u1faf|\u1fa8\u1fa8|\u1fa9\u1fa9|\u1faa\u1faa|\u1fab\u1fab|\u1fac\u1fac|\u1fad\u1fad|\u1fae\u1fae|\u1faf\u1faf|" +
        "\u1fb2\u1fba\u0345|\u1fb3\u1fbc|\u1fb4\u0386\u0345|\u1fb7\u0391\u0342\u0345|\u1fbc\u1fbc|\u1fc2\u1fca\u0345|" +
        "\u1fc3\u1fcc|\u1fc4\u0389\u0345|\u1fc7\u0397\u0342\u0345|\u1fcc\u1fcc|\u1ff2\u1ffa\u0345|\u1ff3\u1ffc|" +
        "\u1ff4\u038f\u0345|\u1ff7\u03a9\u0342\u0345|\u1ffc\u1ffc|\ufb00Ff|\ufb01Fi|\ufb02Fl|\ufb03Ffi|\ufb04Ffl|\ufb05St|" +
        "\ufb06St|\ufb13\u0544\u0576|\ufb14\u0544\u0565|\ufb15\u0544\u056b|\ufb16\u054e\u0576|\ufb17\u0544\u056d";

    private static readonly FrozenDictionary<char, string> s_upper = Read(UpperSpecial);
    private static readonly FrozenDictionary<char, string> s_title = Read(TitleSpecial);

    public static string Upper(string text) => Map(text, static (s, i) => s_upper.GetValueOrDefault(s[i]), static rune => Rune.ToUpperInvariant(rune));

    public static string Lower(string text) => Map(text, static (s, i) => LowerSpecial(s, i), static rune => Rune.ToLowerInvariant(rune));

    /// <summary>Case folding by way of upper case; it differs from Python's for a few letters of Cherokee only.</summary>
    public static string Fold(string text) => Map(Upper(text), static (s, i) => s[i] == '\u0130' ? "i\u0307" : null, static rune => Rune.ToLowerInvariant(rune));

    /// <summary>The first character in title case, the others in lower case (<c>str.capitalize</c>).</summary>
    public static string Capitalize(string text)
    {
        int first = PyText.Offset(text, 1);
        // Lowered as a whole, so that a final sigma still sees what stands before it.
        return first == 0 ? text : Title(text[..first]) + LowerFrom(text, first);
    }

    /// <summary>Every word in title case; a word is a run of letters that have a case (<c>str.title</c>).</summary>
    public static string TitleWords(string text)
    {
        var result = new StringBuilder(text.Length);
        bool inWord = false;
        for (int i = 0; i < text.Length;)
        {
            int width = i + 1 < text.Length && char.IsSurrogatePair(text[i], text[i + 1]) ? 2 : 1;
            string c = text.Substring(i, width);
            result.Append(inWord ? LowerSpecial(text, i) ?? Lower(c) : Title(c));
            inWord = IsCased(text, i);
            i += width;
        }
        return result.ToString();
    }

    public static string SwapCase(string text)
    {
        var result = new StringBuilder(text.Length);
        for (int i = 0; i < text.Length;)
        {
            int width = i + 1 < text.Length && char.IsSurrogatePair(text[i], text[i + 1]) ? 2 : 1;
            string c = text.Substring(i, width);
            result.Append(CharUnicodeInfo.GetUnicodeCategory(text, i) switch
            {
                UnicodeCategory.UppercaseLetter => LowerSpecial(text, i) ?? Lower(c),
                UnicodeCategory.LowercaseLetter => Upper(c),
                _ => c,
            });
            i += width;
        }
        return result.ToString();
    }

    public static bool IsCased(string text, int index) => CharUnicodeInfo.GetUnicodeCategory(text, index)
        is UnicodeCategory.UppercaseLetter or UnicodeCategory.LowercaseLetter or UnicodeCategory.TitlecaseLetter;

    private static string Title(string character)
    {
        if (character.Length > 1)
            return Upper(character);
        char c = character[0];
        return s_title.GetValueOrDefault(c) ?? (c is >= '\u10d0' and <= '\u10ff' ? character : Upper(character));
    }

    private static string LowerFrom(string text, int start) => Map(text, static (s, i) => LowerSpecial(s, i), static rune => Rune.ToLowerInvariant(rune), start);

    private static string Map(string text, Func<string, int, string?> special, Func<Rune, Rune> simple, int start = 0)
    {
        var result = new StringBuilder(text.Length - start);
        for (int i = start; i < text.Length;)
        {
            if (special(text, i) is { } mapped)
            {
                result.Append(mapped);
                i++;
            }
            else if (Rune.TryGetRuneAt(text, i, out Rune rune))
            {
                result.Append(simple(rune).ToString());
                i += rune.Utf16SequenceLength;
            }
            else
                result.Append(text[i++]);
        }
        return result.ToString();
    }

    private static string? LowerSpecial(string text, int i) => text[i] switch
    {
        '\u0130' => "i\u0307",
        '\u03a3' => IsFinalSigma(text, i) ? "\u03c2" : "\u03c3",
        _ => null,
    };

    // A sigma is final after a cased letter and not before one, whatever can be ignored lies between.
    private static bool IsFinalSigma(string text, int i)
    {
        int before = i - 1;
        while (before >= 0 && IsIgnorable(text, before))
            before--;
        int after = i + 1;
        while (after < text.Length && IsIgnorable(text, after))
            after++;
        return before >= 0 && IsCased(text, before) && !(after < text.Length && IsCased(text, after));
    }

    private static bool IsIgnorable(string text, int i)
        => text[i] is '\'' or '.' or ':' or '^' or '`' or '\u00b7' or '\u2018' or '\u2019' or '\u2024' or '\u2027'
            || CharUnicodeInfo.GetUnicodeCategory(text, i) is UnicodeCategory.NonSpacingMark or UnicodeCategory.EnclosingMark
                or UnicodeCategory.Format or UnicodeCategory.ModifierLetter or UnicodeCategory.ModifierSymbol;

    private static FrozenDictionary<char, string> Read(string table)
        => table.Split('|').ToFrozenDictionary(entry => entry[0], entry => entry[1..]);
}
