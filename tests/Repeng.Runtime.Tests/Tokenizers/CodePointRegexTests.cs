using System.Text.RegularExpressions;
using Repeng.Runtime.Tokenizers;

namespace Repeng.Runtime.Tests.Tokenizers;

public sealed class CodePointRegexTests
{
    private const string Cl100k = @"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";

    private static List<string> Matches(string pattern, string text)
    {
        var matcher = new CodePointRegex.Matcher(CodePointRegex.Parse(pattern, "test"));
        List<string> found = [];
        for (int at = 0; at <= text.Length && matcher.Find(text, at, out int start, out int end); at = Math.Max(end, start + 1))
            found.Add(text[start..end]);
        return found;
    }

    /// <summary>On texts of the BMP .NET's engine is an independent judge of the syntax that both share.</summary>
    [Theory]
    [InlineData(Cl100k)]
    [InlineData(@"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+")]
    [InlineData(@"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+")]
    [InlineData(@"(?:a|ab)(?:c|bcd)?d*")]
    [InlineData(@"(a+|b)*?c|[ab]{2,3}b")]
    [InlineData(@"(?>a+)b|a(?=b)|(?<=b)c|(?<!b)c")]
    [InlineData(@"x{,2}|a{2}|[^a-c\s]+|\S")]
    [InlineData(@"(?:ab|a)+?b|[a\-c]+|\.")]
    [InlineData(@"\u0061b|\x62+|[\t\n]+")]
    public void MatchesAreThoseOfDotNetWithinTheBmp(string pattern)
    {
        const string alphabet = "aaabbbcccdd ABxX.,'sStT\n\r\t1239\u00e9\u00c9\u4f60\u0301\u00b2\u3000";
        // The one spelling of this list that .NET reads otherwise.
        var judge = new Regex(pattern.Replace("{,2}", "{0,2}", StringComparison.Ordinal), RegexOptions.CultureInvariant);
        var random = new Random(17);
        for (int trial = 0; trial < 400; trial++)
        {
            string text = new([.. Enumerable.Range(0, random.Next(1, 25)).Select(_ => alphabet[random.Next(alphabet.Length)])]);
            string[] expected = [.. judge.Matches(text).Select(m => m.Value).Where(v => v.Length > 0)];
            string[] actual = [.. Matches(pattern, text).Where(v => v.Length > 0)];
            Assert.True(expected.SequenceEqual(actual), $"{JsonParts.Quote(text)}: {string.Join('|', actual)}, expected {string.Join('|', expected)}");
        }
    }

    [Theory]
    // Letters beyond U+FFFF are letters, and one character each.
    [InlineData(@"\p{L}+", "\U0001D400\U00020000a1", "\U0001D400\U00020000a")]
    [InlineData(@"[^a]", "\U0001F600", "\U0001F600")]
    [InlineData(".{2}", "\U0001F600\U0001F601\U0001F602", "\U0001F600\U0001F601")]
    [InlineData(@"\p{N}{1,3}", "\U0001D7CE1\U0001D7CF2", "\U0001D7CE1\U0001D7CF|2")]
    [InlineData(@"[\p{L}&&[^\p{Han}]]+", "ab\u4f60\U00020000cd", "ab|cd")]
    [InlineData(@"[\p{Han}]+", "ab\u4f60\U00020000cd", "\u4f60\U00020000")]
    // Ruby's syntax: an interval with a plus repeats, nested classes unite, line anchors.
    [InlineData(@"\d{1,2}+x", "1234567x", "1234567x")]
    [InlineData(@"a{1,2}+", "aaa", "aaa")]
    [InlineData("[a[bc]]+", "xabcx", "abc")]
    [InlineData(@"[^a[bc]]+", "xabcy", "x|y")]
    [InlineData("^b$", "a\nb\nc", "b")]
    [InlineData(@"a++b|a", "aac", "a|a")]
    [InlineData(@"x{y", "x{y", "x{y")]
    // The long s folds to s, the Kelvin sign to k.
    [InlineData("(?i:'s)", "'S'\u017f'x", "'S|'\u017f")]
    [InlineData("(?i:[k])", "kK\u212A", "k|K|\u212A")]
    [InlineData(@"(?i:[^s])+", "aS\u017fb", "a|b")]
    [InlineData(@"\s+", "\u0085\u3000x\u200b\u001c\u180e\ufeff", "\u0085\u3000")]
    [InlineData(@"\bb", "ab b", "b")]
    // Alone, \w has the fractions of Latin-1; in a class it has not.
    [InlineData(@"\w+", "a\u00bdb\u2153c", "a\u00bdb|c")]
    [InlineData(@"[\w]+", "a\u00bdb\u2153c", "a|b|c")]
    [InlineData(@"(?<!\d)\d", "12 3", "1|3")]
    public void CodePointsAndRubySyntaxAreRespected(string pattern, string text, string expected) =>
        Assert.Equal(expected, string.Join('|', Matches(pattern, text)));

    [Fact]
    public void ALongRunTakesLinearTime()
    {
        string spaces = new(' ', 300_000);
        Assert.Equal(2, Matches(Cl100k, spaces + "a").Count);
        Assert.Single(Matches(Cl100k, new string('\u4f60', 300_000)));
    }
}
