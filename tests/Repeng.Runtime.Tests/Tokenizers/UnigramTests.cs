using System.Text;
using System.Text.Json.Nodes;
using CsCheck;
using Repeng.Kernels;
using Repeng.Runtime.Tokenizers;

namespace Repeng.Runtime.Tests.Tokenizers;

public sealed class UnigramTests
{
    private static JsonObject Model(int? unknown, params (string Token, double Score)[] vocabulary) => new()
    {
        ["type"] = "Unigram",
        ["unk_id"] = unknown,
        ["vocab"] = new JsonArray([.. vocabulary.Select(v => (JsonNode)new JsonArray(v.Token, v.Score))]),
    };

    private static int[] Encode(JsonObject model, string text) => JsonParts.Load(JsonParts.File((JsonObject)model.DeepClone())).Encode(text, false);

    /// <summary>The vocabulary and cases of SentencePiece's own test of the model (unigram_model_test.cc): scores beat lengths, unknown neighbours are one.</summary>
    [Theory]
    [InlineData("abc", "abc")]
    [InlineData("AB", "<unk>")]
    [InlineData("abcd", "ab|cd")]
    [InlineData("abcc", "abc|c")]
    [InlineData("xabcabaabcdd", "<unk>|abc|ab|a|ab|cd|<unk>")]
    [InlineData("xyz\u6771\u4EAC", "<unk>")]
    [InlineData("ABC", "ABC")]
    [InlineData("abABCcd", "ab|ABC|cd")]
    [InlineData("ababcdabcdcd", "ab|abcdabcd|cd")]
    [InlineData("abqrcd", "ab|q|r|cd")]
    public void ThePublishedCasesHold(string text, string expected)
    {
        Tokenizer tokenizer = JsonParts.Load(JsonParts.File(Model(0, ("<unk>", 0), ("ab", 0), ("cd", -0.1), ("abc", -0.2), ("a", -0.3), ("b", -0.4),
            ("c", -0.5), ("ABC", -0.5), ("abcdabcd", 20), ("q", 20.5), ("r", 20.5), ("qr", -0.5))));
        Assert.Equal(expected, string.Join('|', tokenizer.Encode(text, false).Select(tokenizer.IdToToken)));
    }

    [Fact]
    public void MemoryFollowsTheTokensAndNotTheScores()
    {
        var vocabulary = new Vocabulary("test", 16);
        vocabulary.Add("a", 0);
        double[] scores = new double[1 << 20];
        long before = GC.GetAllocatedBytesForCurrentThread();
        _ = new UnigramModel(vocabulary, scores, 0, byteFallback: false, "test");
        Assert.InRange(GC.GetAllocatedBytesForCurrentThread() - before, 0, 1 << 20);
    }

    /// <summary>Viterbi's best path scores what the best of all ways to cut the text scores, unknown characters included.</summary>
    [Fact]
    public void NoOtherWayToCutATextScoresHigher()
    {
        Gen<string> word = Gen.Char["abc\u00E9\u4F60"].Array[1, 4].Select(c => new string(c)).Where(w => w != "\u4F60");
        Gen.Select(word.Array[1, 12], Gen.Double[-9, -0.5].Array[12], Gen.Char["abc\u00E9\u4F60"].Array[1, 9].Select(c => new string(c)))
            .Sample((words, scores, text) =>
            {
                (string, double)[] vocabulary = [("<unk>", -20), .. words.Distinct().Select((w, i) => (w, scores[i]))];
                Dictionary<string, double> byToken = vocabulary.ToDictionary(v => v.Item1, v => v.Item2);
                double unknown = vocabulary.Min(v => v.Item2) - 10;
                int[] ids = Encode(Model(0, vocabulary), text);
                Assert.Equal(Best(text), Score(ids), 9);

                double Best(string rest) => rest.Length == 0 ? 0 : Enumerable.Range(1, rest.Length).Max(n =>
                    byToken.TryGetValue(rest[..n], out double s) ? s + Best(rest[n..])
                    : n == 1 && !byToken.ContainsKey(rest[..1]) ? unknown + Best(rest[1..]) : double.NegativeInfinity);

                // Runs of unknown characters are one id; what the text has between known tokens says how many they were.
                double Score(int[] path)
                {
                    double known = path.Where(id => id != 0).Sum(id => vocabulary[id].Item2);
                    int covered = path.Where(id => id != 0).Sum(id => vocabulary[id].Item1.Length);
                    return known + (text.Length - covered) * unknown;
                }
            }, iter: 2000);
    }

    [Fact]
    public void UnknownCharactersBecomeTheirBytesWhereAllAreThere()
    {
        (string, double)[] bytes = [.. Encoding.UTF8.GetBytes("\u00E9").Select(b => ($"<0x{b:X2}>", -30.0))];
        JsonObject model = Model(0, [("<unk>", 0), ("a", -1), .. bytes]);
        Assert.Equal([1, 0, 1], Encode(model, "a\u00E9a"));
        model["byte_fallback"] = true;
        Assert.Equal([1, 2, 3, 1], Encode(model, "a\u00E9a"));
        // Runs go as a whole: one character without bytes makes all of it unknown.
        Assert.Equal([1, 0, 1], Encode(model, "a\u00E9\u00E8a"));
    }

    [Fact]
    public void AnUnknownRunThatIsATokenTogetherIsThatToken()
    {
        // "xy" costs more than two unknown characters, so they are unknown and fused, and the fused text is a token.
        Assert.Equal([1], Encode(Model(0, ("<unk>", 0), ("xy", -50), ("a", -1)), "xy"));
        Assert.Equal([2, 0], Encode(Model(0, ("<unk>", 0), ("a", -9), ("a", -1)), "ax"));
    }

    [Fact]
    public void WithoutAnUnknownTokenAnUnknownCharacterIsAnError()
    {
        JsonObject model = Model(null, ("a", -1));
        Assert.Equal([0, 0], Encode(model, "aa"));
        UserErrorException error = Assert.Throws<UserErrorException>(() => Encode(model, "ab"));
        Assert.Contains("\"b\"", error.Message, StringComparison.Ordinal);
    }

    /// <summary>The pipeline of SentencePiece models such as T5's, from raw text to ids and back.</summary>
    [Fact]
    public void ASentencePieceModelGoesThereAndBack()
    {
        (string, double)[] letters = [.. "abcdefghijklmnopqrstuvwxyz.".Select(c => (c.ToString(), -8.0))];
        JsonObject model = Model(2, [("<pad>", 0), ("</s>", 0), ("<unk>", 0), ("\u2581", -3), ("\u2581the", -3.1), ("\u2581cat", -5), ("s", -3.5), ("\u2581sit", -6), ("\u2581s", -5), ("it", -4), .. letters]);
        Tokenizer tokenizer = JsonParts.Load(JsonParts.File(model,
            """{"type":"Sequence","normalizers":[{"type":"Nmt"},{"type":"NFKC"},{"type":"Replace","pattern":{"Regex":" {2,}"},"content":" "}]}""",
            """{"type":"Sequence","pretokenizers":[{"type":"WhitespaceSplit"},{"type":"Metaspace","replacement":"\u2581","prepend_scheme":"always","split":true}]}""",
            """{"type":"Metaspace","replacement":"\u2581","prepend_scheme":"always","split":true}""",
            """{"type":"TemplateProcessing","single":[{"Sequence":{"id":"A","type_id":0}},{"SpecialToken":{"id":"</s>","type_id":0}}],"pair":[],"special_tokens":{"</s>":{"id":"</s>","ids":[1],"tokens":["</s>"]}}}""",
            JsonParts.Added(1, "</s>", special: true)));
        int[] ids = tokenizer.Encode("the\u3000cats  sit.", true);
        Assert.Equal("\u2581the|\u2581cat|s|\u2581sit|.|</s>", string.Join('|', ids.Select(tokenizer.IdToToken)));
        Assert.Equal("the cats sit.", tokenizer.Decode(ids, true));
        DecodeStream stream = tokenizer.CreateStream(true);
        Assert.Equal(["the", " cat", "s", " sit", ".", ""], ids.Select(stream.Add));
    }

    [Fact]
    public void ALongPieceTakesLinearTime()
    {
        string[] powers = [.. Enumerable.Range(0, 6).Select(i => new string('a', 1 << i))];
        int[] ids = Encode(Model(0, [("<unk>", 0), .. powers.Select(p => (p, -5.0))]), new string('a', 500_003));
        Assert.Equal(500_003, ids.Sum(id => 1 << (id - 1)));
    }
}
