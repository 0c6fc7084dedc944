using Repeng.Runtime.Tokenizers;

namespace Repeng.Runtime.Tests.Tokenizers;

/// <summary>Splits made visible: a last step puts U+2581 before every piece, and the model writes bytes.</summary>
public sealed class PreTokenizerTests
{
    private static string Pieces(string preTokenizer, string text, string? normalizer = null)
    {
        string marked = $$"""{"type":"Sequence","pretokenizers":[{{preTokenizer}},{"type":"Metaspace","replacement":"\u2581","prepend_scheme":"always","split":false}]}""";
        const string decoder = """{"type":"Sequence","decoders":[{"type":"ByteFallback"},{"type":"Fuse"}]}""";
        Tokenizer tokenizer = JsonParts.Load(JsonParts.File(JsonParts.Bytes(), normalizer, marked, decoder));
        return tokenizer.Decode(tokenizer.Encode(text, false), false).Replace('\u2581', '|');
    }

    private static string Split(string pattern, string behavior, bool invert, string kind = "Regex") =>
        $$"""{"type":"Split","pattern":{"{{kind}}":{{JsonParts.Quote(pattern)}}},"behavior":"{{behavior}}","invert":{{(invert ? "true" : "false")}}}""";

    [Theory]
    [InlineData("Removed", false, "|the|final|countdown")]
    [InlineData("Isolated", false, "|the|-|final|-|-|countdown")]
    [InlineData("MergedWithPrevious", false, "|the-|final-|-|countdown")]
    [InlineData("MergedWithNext", false, "|the|-final|-|-countdown")]
    [InlineData("Contiguous", false, "|the|-|final|--|countdown")]
    [InlineData("Removed", true, "|-|-|-")]
    [InlineData("Isolated", true, "|the|-|final|-|-|countdown")]
    [InlineData("MergedWithNext", true, "|the-|final-|-|countdown")]
    public void MatchesGoWhereTheBehaviorSays(string behavior, bool invert, string expected)
    {
        Assert.Equal(expected, Pieces(Split("-", behavior, invert, "String"), "the-final--countdown"));
        Assert.Equal(expected, Pieces(Split("[-]", behavior, invert), "the-final--countdown"));
    }

    [Theory]
    [InlineData("""{"type":"Digits","individual_digits":true}""", "a12\u00b2b", "|a|1|2|\u00b2|b")]
    [InlineData("""{"type":"Digits","individual_digits":false}""", "a12\u00b2b3", "|a|12\u00b2|b|3")]
    [InlineData("""{"type":"WhitespaceSplit"}""", "a b\t\u3000c-d", "|a|b|c-d")]
    [InlineData("""{"type":"Whitespace"}""", "a_1 b--c \u0301x\u200dy\u00b2", "|a_1|b|--|c|\u0301x\u200dy|\u00b2")]
    [InlineData("""{"type":"Punctuation"}""", "a,b$\u3001", "|a|,|b|$|\u3001")]
    [InlineData("""{"type":"Punctuation","behavior":"Removed"}""", "a,b$", "|a|b")]
    [InlineData("""{"type":"BertPreTokenizer"}""", "a, b", "|a|,|b")]
    [InlineData("""{"type":"CharDelimiterSplit","delimiter":"_"}""", "a__b", "|a|b")]
    [InlineData("""{"type":"Metaspace","replacement":"_","prepend_scheme":"first","split":true}""", "a b  c", "|_a|_b|_|_c")]
    [InlineData("""{"type":"Metaspace","replacement":"_","prepend_scheme":"never","split":true}""", "a b", "|a|_b")]
    [InlineData("""{"type":"Metaspace","replacement":"_","add_prefix_space":true}""", " a", "|_a")]
    [InlineData("""{"type":"ByteLevel","add_prefix_space":true,"use_regex":true}""", "a b!", "|\u0120a|\u0120b|!")]
    [InlineData("""{"type":"ByteLevel","add_prefix_space":false,"use_regex":false}""", "\u00e9 b", "|\u00c3\u00a9\u0120b")]
    // Empty matches cut, but not right behind a match.
    [InlineData("""{"type":"Split","pattern":{"Regex":"a*"},"behavior":"Isolated","invert":false}""", "baacdd", "|b|aa|c|d|d")]
    [InlineData("""{"type":"UnicodeScripts"}""", "\u3069\u3053\u3067\u751F\u308C\u3002Yes", "|\u3069\u3053\u3067\u751F\u308C|\u3002|Yes")]
    [InlineData("""{"type":"UnicodeScripts"}""", "Apples are \u308A\u3093\u3054 \u6797\u6A8E", "|Apples|are||\u308A\u3093\u3054|\u6797\u6A8E")]
    // Spaces show as bars as well, here behind a piece. The prolonged sound mark counts as Han; leading spaces drop out; marks have a script of their own; unassigned characters none.
    [InlineData("""{"type":"UnicodeScripts"}""", "  \u30E9\u30FC\u30E1\u30F3\u0301 x\uFFFFy \u043F1", "|\u30E9\u30FC\u30E1\u30F3|\u0301||x\uFFFFy||\u043F|1")]
    [InlineData("""{"type":"FixedLength","length":3}""", "abcde\U0001F600fgh", "|abc|de\U0001F600|fgh")]
    [InlineData("""{"type":"FixedLength"}""", "abcdefg", "|abcde|fg")]
    public void EveryStepSplitsAsItsName(string step, string text, string expected) => Assert.Equal(expected, Pieces(step, text));

    [Fact]
    public void StepsWorkOnWhatTheStepBeforeLeaves()
    {
        // The byte stand-ins of ² (Â²) hold a digit for the second step.
        const string steps = """{"type":"ByteLevel","add_prefix_space":false,"use_regex":false},{"type":"Digits","individual_digits":true}""";
        Assert.Equal("|a\u00c2|\u00b2|b", Pieces(steps, "a\u00b2b"));
        Assert.Equal("|a|b", Pieces(Split(" ", "Removed", false, "String"), "a-b", """{"type":"Replace","pattern":{"Regex":"-+"},"content":" "}"""));
    }

    /// <summary>Only the piece at the very front of the input gets the mark of the scheme "first": not one behind an added token or a cut.</summary>
    [Theory]
    [InlineData("a", "_a")]
    [InlineData(" a", "a")]
    [InlineData("xa b", "a_b")]
    [InlineData("<s>a", "<s>a")]
    [InlineData("a<s>a", "_a<s>a")]
    public void TheFirstPieceBeginsWhereTheInputBegins(string text, string expected)
    {
        Tokenizer tokenizer = JsonParts.Load(JsonParts.File(
            JsonParts.Bytes(),
            """{"type":"Sequence","normalizers":[{"type":"Strip","strip_left":true,"strip_right":false},{"type":"Replace","pattern":{"String":"x"},"content":""}]}""",
            """{"type":"Metaspace","replacement":"_","prepend_scheme":"first","split":true}""",
            """{"type":"Sequence","decoders":[{"type":"ByteFallback"},{"type":"Fuse"}]}""",
            null, JsonParts.Added(258, "<s>")));
        Assert.Equal(expected, tokenizer.Decode(tokenizer.Encode(text, false), false));
    }

    [Theory]
    [InlineData("""{"type":"Strip","strip_left":true,"strip_right":true}""", "\u3000 a b\n", "|a b")]
    [InlineData("""{"type":"Prepend","prepend":"x"}""", "a", "|xa")]
    [InlineData("""{"type":"Lowercase"}""", "A\u0130\u03A3\U00010400", "|ai\u0307\u03C3\U00010428")]
    [InlineData("""{"type":"Replace","pattern":{"String":"ab"},"content":"c"}""", "aabb", "|acb")]
    [InlineData("""{"type":"Replace","pattern":{"Regex":"\\s{2,}"},"content":"_"}""", "a \n b c", "|a_b c")]
    [InlineData("""{"type":"Sequence","normalizers":[{"type":"NFKC"},{"type":"Lowercase"}]}""", "\uFF21\u0301", "|\u00e1")]
    [InlineData("""{"type":"ByteLevel"}""", "\u00e9", "|\u00c3\u00a9")]
    public void NormalizersRewriteTheText(string normalizer, string text, string expected) =>
        Assert.Equal(expected.Replace(' ', '|'), Pieces("""{"type":"Sequence","pretokenizers":[]}""", text, normalizer));
}
