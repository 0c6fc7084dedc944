using System.Text;
using System.Text.Json.Nodes;
using Repeng.Kernels;
using Repeng.Runtime.Tokenizers;

namespace Repeng.Runtime.Tests.Tokenizers;

/// <summary>Damaged and malicious files: one clear error that names the file, nothing else.</summary>
public sealed class HostileTokenizerTests
{
    private const string Good = """
        {"added_tokens":[{"id":3,"content":"<s>","special":true}],"normalizer":{"type":"NFC"},
         "pre_tokenizer":{"type":"Split","pattern":{"Regex":"\\p{L}+"},"behavior":"Isolated","invert":false},
         "post_processor":{"type":"TemplateProcessing","single":[{"SpecialToken":{"id":"<s>"}},{"Sequence":{"id":"A"}}],"special_tokens":{"<s>":{"ids":[3]}}},
         "decoder":{"type":"Strip","content":" ","start":1,"stop":0},
         "model":{"type":"BPE","unk_token":"a","vocab":{"a":0,"b":1,"ab":2},"merges":["a b"]}}
        """;

    private static string ErrorOf(string json, string? config = null)
    {
        UserErrorException error = Assert.Throws<UserErrorException>(() => Tokenizer.FromJson(json, config, null, "folder/tokenizer.json"));
        Assert.StartsWith("folder/tokenizer.json", error.Message, StringComparison.Ordinal);
        Assert.DoesNotContain('\n', error.Message);
        Assert.True(error.Message.Length < 700, error.Message);
        return error.Message;
    }

    [Fact]
    public void TheUndamagedFileLoads() =>
        Assert.Equal([3, 2], Tokenizer.FromJson(Good).Encode("ab", true));

    [Theory]
    [InlineData("\"a\":0", "\"a\":-1", "-1")]
    [InlineData("\"a\":0", "\"a\":4194304", "4194304")]
    [InlineData("\"a\":0", "\"a\":99999999999999999999", "\"a\"")]
    [InlineData("\"a\":0", "\"a\":0.5", "\"a\"")]
    [InlineData("\"a\":0", "\"a\":\"0\"", "\"a\"")]
    [InlineData("\"a\":0", "\"a\":1", "same id 1")]
    [InlineData("\"b\":1", "\"a\":1", "occurs twice")]
    [InlineData("\"a b\"", "\"a c\"", "merges[0]: the token \"c\"")]
    [InlineData("\"a b\"", "\"b a\"", "merges[0]: the token \"ba\"")]
    [InlineData("\"a b\"", "\"ab\"", "merges[0]")]
    [InlineData("\"a b\"", "\"a b \"", "merges[0]")]
    [InlineData("\"a b\"", "[\"a\"]", "merges[0]")]
    [InlineData("\"a b\"", "[\"a\",\"b\",\"c\"]", "merges[0]")]
    [InlineData("\"a b\"", "[\"a\",1]", "merges[0]")]
    [InlineData("\"a b\"", "7", "merges[0]")]
    [InlineData("[\"a b\"]", "{}", "merges")]
    [InlineData("\"merges\":[\"a b\"]", "\"merges\":[\"a b\"],\"vocab\":{\"a\":0}", "'vocab' stands twice")]
    [InlineData("\"merges\":[\"a b\"]", "\"merges\":[\"a b\"],\"vocab\":[[\"a\",0]]", "'vocab' stands twice")]
    [InlineData("\"merges\":[\"a b\"]", "\"merges\":[\"a b\"],\"merges\":[]", "'merges' stands twice")]
    [InlineData("\"merges\":[\"a b\"]}", "\"merges\":[\"a b\"]},\"model\":{\"vocab\":{\"ab\":0}}", "'model' stands twice")]
    [InlineData("\"unk_token\":\"a\"", "\"unk_token\":\"z\"", "\"z\"")]
    [InlineData("\"unk_token\":\"a\"", "\"unk_token\":5", "unk_token")]
    [InlineData("\"type\":\"BPE\"", "\"type\":\"GRU\"", "model: type \"GRU\" is not supported; supported are BPE, Unigram, WordPiece, WordLevel")]
    [InlineData("\"type\":\"BPE\"", "\"type\":\"Unigram\"", "log-probability")]
    [InlineData("\"BPE\",\"unk_token\":\"a\",\"vocab\":{\"a\":0,", "\"Unigram\",\"unk_id\":9,\"vocab\":[[\"a\",0]],\"x\":{", "unk_id is 9")]
    [InlineData("\"BPE\",\"unk_token\":\"a\",\"vocab\":{\"a\":0,", "\"Unigram\",\"unk_id\":-1,\"vocab\":[[\"a\",0]],\"x\":{", "unk_id")]
    [InlineData("\"BPE\",\"unk_token\":\"a\",\"vocab\":{\"a\":0,", "\"Unigram\",\"vocab\":[[\"a\",1e999]],\"x\":{", "vocab[0]")]
    [InlineData("\"BPE\",\"unk_token\":\"a\",\"vocab\":{\"a\":0,", "\"Unigram\",\"vocab\":[[\"a\",0],[\"b\"]],\"x\":{", "vocab[1]")]
    [InlineData("\"type\":\"BPE\"", "\"type\":\"WordPiece\",\"max_input_chars_per_word\":-2", "max_input_chars_per_word")]
    [InlineData("\"type\":\"BPE\"", "\"type\":\"WordPiece\",\"continuing_subword_prefix\":1", "continuing_subword_prefix")]
    [InlineData("\"type\":\"BPE\"", "\"type\":\"BPE\",\"dropout\":0.1", "0.1")]
    [InlineData("\"type\":\"BPE\"", "\"type\":\"BPE\",\"fuse_unk\":1", "fuse_unk")]
    [InlineData("{\"a\":0,\"b\":1,\"ab\":2}", "[[\"a\",0]]", "vocab")]
    [InlineData("{\"a\":0,\"b\":1,\"ab\":2}", "[7]", "vocab[0]")]
    [InlineData("\"id\":3,", "", "added_tokens[0]: 'id'")]
    [InlineData("\"id\":3,", "\"id\":1,", "\"b\"")]
    [InlineData("\"id\":3,", "\"id\":2147483647,", "2147483647")]
    [InlineData("\"id\":3,", "\"id\":-3,", "-3")]
    [InlineData("\"id\":3,\"content\":\"<s>\"", "\"id\":3,\"content\":\"a\"", "\"a\"")]
    [InlineData("\"content\":\"<s>\"", "\"content\":null", "content")]
    [InlineData("\"special\":true", "\"special\":\"yes\"", "special")]
    [InlineData("[{\"id\":3", "[5,{\"id\":3", "added_tokens[0]")]
    [InlineData("\"NFC\"", "\"NFX\"", "normalizer: type \"NFX\" is not supported; supported are Sequence, NFC")]
    [InlineData("\"NFC\"", "\"Precompiled\"", "normalizer: 'precompiled_charsmap' is missing")]
    [InlineData("\"NFC\"", "\"Precompiled\",\"precompiled_charsmap\":\"AAA\"", "base64")]
    [InlineData("\"NFC\"", "\"Precompiled\",\"precompiled_charsmap\":\"/wAAAA==\"", "255 bytes, of 0")]
    [InlineData("\"NFC\"", "\"BertNormalizer\",\"lowercase\":3", "lowercase")]
    [InlineData("{\"type\":\"NFC\"}", "\"NFC\"", "normalizer")]
    [InlineData("\"type\":\"Split\"", "\"type\":\"Jieba\"", "\"Jieba\" is not supported; supported are Sequence, ByteLevel")]
    [InlineData("\"type\":\"Split\"", "\"type\":\"FixedLength\",\"length\":0", "'length' must be above 0")]
    [InlineData("\"Isolated\"", "\"Beside\"", "Beside")]
    [InlineData("\"Isolated\"", "\"2\"", "\"2\"")]
    [InlineData("\\\\p{L}+", "(", "'('")]
    [InlineData("\\\\p{L}+", "\\\\p{Klingon}", "Klingon")]
    [InlineData("\\\\p{L}+", "(?<name>a)", "(?<na")]
    [InlineData("\\\\p{L}+", "(a)\\\\1", "\\\\1")]
    [InlineData("\\\\p{L}+", "(?i:é)", "beyond ASCII")]
    [InlineData("\\\\p{L}+", "(?i:ss)", "'ss'")]
    [InlineData("\\\\p{L}+", "(a*)*", "repeat")]
    [InlineData("\\\\p{L}+", "(?:(?:(?:a{999}){999}){999}){999}", "steps")]
    [InlineData("\"Strip\"", "\"Morse\"", "decoder: type \"Morse\" is not supported; supported are Sequence, ByteLevel")]
    [InlineData("\"Strip\"", "\"CTC\",\"pad_token\":1", "pad_token")]
    [InlineData("\"TemplateProcessing\"", "\"PairProcessing\"", "post_processor: type \"PairProcessing\" is not supported; supported are Sequence, ByteLevel, TemplateProcessing, BertProcessing, RobertaProcessing")]
    [InlineData("\"content\":\" \"", "\"content\":\"ab\"", "one character")]
    [InlineData("\"ids\":[3]", "\"ids\":[9]", "the id 9")]
    [InlineData("{\"id\":\"A\"}", "{\"id\":\"B\"}", "\"B\"")]
    [InlineData(",{\"Sequence\":{\"id\":\"A\"}}", "", "Sequence A")]
    [InlineData("\"model\":", "\"module\":", "model")]
    [InlineData("\"b\":1", "\"\\ud800\":1", "Unicode")]
    [InlineData("\"content\":\"<s>\"", "\"content\":\"\\udc00\"", "Unicode")]
    public void ADamagedPlaceIsNamed(string from, string to, string named)
    {
        Assert.Contains(from, Good, StringComparison.Ordinal);
        Assert.Contains(named, ErrorOf(Good.Replace(from, to, StringComparison.Ordinal)), StringComparison.Ordinal);
    }

    [Fact]
    public void TruncatedAnywhereTheFileIsRefused()
    {
        for (int length = 0; length < Good.Length; length++)
            ErrorOf(Good[..length]);
        ErrorOf(Good + "}");
        ErrorOf("[]");
        ErrorOf("\0\0\0\0");
        ErrorOf(new string('[', 100_000));
    }

    [Fact]
    public void RandomDamageNeverEscapesAsAnotherException()
    {
        byte[] good = Encoding.UTF8.GetBytes(Good);
        var random = new Random(5);
        for (int trial = 0; trial < 3000; trial++)
        {
            byte[] damaged = [.. good];
            for (int n = random.Next(1, 4); n > 0; n--)
                damaged[random.Next(damaged.Length)] = (byte)random.Next(256);
            try
            {
                Tokenizer.FromJson(damaged).Encode("ab a", true);
            }
            catch (UserErrorException)
            {
            }
        }
    }

    [Fact]
    public void AnEndlessPatternIsStopped()
    {
        JsonObject file = JsonParts.File(JsonParts.Bytes(), preTokenizer: """{"type":"Split","pattern":{"Regex":"(a+)+b"},"behavior":"Isolated"}""");
        Tokenizer tokenizer = JsonParts.Load(file);
        Assert.NotEmpty(tokenizer.Encode("aaab", false));
        UserErrorException error = Assert.Throws<UserErrorException>(() => tokenizer.Encode(new string('a', 60), false));
        Assert.Contains("(a+)+b", error.Message, StringComparison.Ordinal);
    }

    [Theory]
    [InlineData("{")]
    [InlineData("[]")]
    [InlineData("""{"eos_token":"nowhere"}""")]
    [InlineData("""{"bos_token":{"content":5}}""")]
    [InlineData("""{"chat_template":5}""")]
    [InlineData("""{"chat_template":[{"name":"x"}]}""")]
    public void ADamagedConfigurationIsRefused(string config) => ErrorOf(Good, config);

    [Fact]
    public void AWordWithoutUnknownTokenIsAnError()
    {
        JsonObject model = JsonParts.WordLevel("a");
        model["unk_token"] = "<unk>";
        Tokenizer tokenizer = JsonParts.Load(JsonParts.File(model));
        Assert.Equal([0], tokenizer.Encode("a", false));
        Assert.Contains("\"b\"", Assert.Throws<UserErrorException>(() => tokenizer.Encode("b", false)).Message, StringComparison.Ordinal);
    }
}
