using System.Text;
using Repeng.Runtime.Tokenizers;

namespace Repeng.Runtime.Tests.Tokenizers;

public sealed class UnicodeNormalizationTests
{
    [Theory]
    // Singletons, exclusions, order of marks, Hangul, compatibility: examples of UAX #15 and the conformance test.
    [InlineData("\u212B", "\u00C5", "A\u030A", "\u00C5", "A\u030A")]
    [InlineData("\u1E9B\u0323", "\u1E9B\u0323", "\u017F\u0323\u0307", "\u1E69", "s\u0323\u0307")]
    [InlineData("\u1E0A\u0323", "\u1E0C\u0307", "D\u0323\u0307", "\u1E0C\u0307", "D\u0323\u0307")]
    [InlineData("\u0958", "\u0915\u093C", "\u0915\u093C", "\u0915\u093C", "\u0915\u093C")]
    [InlineData("\uD4DB", "\uD4DB", "\u1111\u1171\u11B6", "\uD4DB", "\u1111\u1171\u11B6")]
    [InlineData("\u1111\u1171\u11B6", "\uD4DB", "\u1111\u1171\u11B6", "\uD4DB", "\u1111\u1171\u11B6")]
    [InlineData("\uFB01x\u2460\u3000", "\uFB01x\u2460\u3000", "\uFB01x\u2460\u3000", "fix1 ", "fix1 ")]
    [InlineData("\U0001D15E", "\U0001D157\U0001D165", "\U0001D157\U0001D165", "\U0001D157\U0001D165", "\U0001D157\U0001D165")]
    [InlineData("\uF900", "\u8C48", "\u8C48", "\u8C48", "\u8C48")]
    [InlineData("a\u0315\u0300\u05AE\u0062", "\u00E0\u05AE\u0315b", "a\u05AE\u0300\u0315b", "\u00E0\u05AE\u0315b", "a\u05AE\u0300\u0315b")]
    [InlineData("\u1100\uAC00\u11A8\u11A8", "\u1100\uAC01\u11A8", "\u1100\u1100\u1161\u11A8\u11A8", "\u1100\uAC01\u11A8", "\u1100\u1100\u1161\u11A8\u11A8")]
    public void FormsAreThoseOfTheStandard(string text, string c, string d, string kc, string kd)
    {
        Assert.Equal(c, UnicodeNormalization.Normalize(text, NormalizationForm.FormC));
        Assert.Equal(d, UnicodeNormalization.Normalize(text, NormalizationForm.FormD));
        Assert.Equal(kc, UnicodeNormalization.Normalize(text, NormalizationForm.FormKC));
        Assert.Equal(kd, UnicodeNormalization.Normalize(text, NormalizationForm.FormKD));
    }

    /// <summary>The equations that define conformance (UAX #15), for every code point alone and with a mark behind it.</summary>
    [Fact]
    public void FormsOfEveryCodePointAgreeWithEachOther()
    {
        for (int point = 1; point <= 0x3FFFF; point++)
        {
            if (point is >= 0xD800 and <= 0xDFFF)
                continue;
            Check(char.ConvertFromUtf32(point));
            if (point < 0x3400)
                Check($"\u0323{char.ConvertFromUtf32(point)}\u0301\u0328");
        }

        static void Check(string text)
        {
            string c = UnicodeNormalization.Normalize(text, NormalizationForm.FormC);
            string d = UnicodeNormalization.Normalize(text, NormalizationForm.FormD);
            string kc = UnicodeNormalization.Normalize(text, NormalizationForm.FormKC);
            string kd = UnicodeNormalization.Normalize(text, NormalizationForm.FormKD);
            bool holds = c == UnicodeNormalization.Normalize(c, NormalizationForm.FormC)
                && c == UnicodeNormalization.Normalize(d, NormalizationForm.FormC)
                && d == UnicodeNormalization.Normalize(c, NormalizationForm.FormD)
                && d == UnicodeNormalization.Normalize(d, NormalizationForm.FormD)
                && kc == UnicodeNormalization.Normalize(kd, NormalizationForm.FormKC)
                && kc == UnicodeNormalization.Normalize(d, NormalizationForm.FormKC)
                && kd == UnicodeNormalization.Normalize(kc, NormalizationForm.FormKD)
                && kd == UnicodeNormalization.Normalize(c, NormalizationForm.FormKD);
            if (!holds)
                Assert.Fail($"U+{char.ConvertToUtf32(text, 0):X4} in {JsonParts.Quote(text)}: {JsonParts.Quote(c)} {JsonParts.Quote(d)} {JsonParts.Quote(kc)} {JsonParts.Quote(kd)}");
        }
    }

    [Fact]
    public void ALongRunOfMarksIsOrderedInTime()
    {
        var random = new Random(3);
        string[] marks = ["\u0300", "\u0323", "\u0328", "\u0345", "\u0334"];
        string text = "a" + string.Concat(Enumerable.Range(0, 200_000).Select(_ => marks[random.Next(marks.Length)]));
        string ordered = UnicodeNormalization.Normalize(text, NormalizationForm.FormD);
        Assert.Equal(text.Count(m => m == '\u0334'), ordered.Length - 1 - ordered.AsSpan(1).TrimStart('\u0334').Length);
        Assert.EndsWith("\u0300\u0345", ordered.TrimEnd('\u0345') + "\u0345", StringComparison.Ordinal);
    }
}
