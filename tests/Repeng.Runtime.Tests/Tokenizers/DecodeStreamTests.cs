using Repeng.Runtime.Tokenizers;

namespace Repeng.Runtime.Tests.Tokenizers;

public sealed class DecodeStreamTests
{
    private static readonly string[] s_words =
    [
        "[UNK]", "the", "##ing", "a</w>", "b", "c</w>", "</w>", ".", "!", "n't", "\u2581x", "x\u2581y", "\u2581", " ", "  ", "x ", "  y  ", "abab", "aba", "\U0001F600",
    ];

    /// <summary>Whatever the decoder, the increments and the flush add up to what decoding at once gives.</summary>
    [Theory]
    [InlineData("null")]
    [InlineData("""{"type":"WordPiece","prefix":"##","cleanup":true}""")]
    [InlineData("""{"type":"WordPiece","prefix":"##","cleanup":false}""")]
    [InlineData("""{"type":"BPEDecoder","suffix":"</w>"}""")]
    [InlineData("""{"type":"Metaspace","replacement":"\u2581","prepend_scheme":"always","split":true}""")]
    [InlineData("""{"type":"Metaspace","replacement":"\u2581","prepend_scheme":"never","split":true}""")]
    [InlineData("""{"type":"Strip","content":" ","start":1,"stop":1}""")]
    [InlineData("""{"type":"Sequence","decoders":[{"type":"Fuse"},{"type":"Strip","content":" ","start":2,"stop":3}]}""")]
    [InlineData("""{"type":"Sequence","decoders":[{"type":"Fuse"},{"type":"Strip","content":"\ud83d\ude00","start":1,"stop":1}]}""")]
    [InlineData("""{"type":"Sequence","decoders":[{"type":"Fuse"},{"type":"Replace","pattern":{"String":"ab"},"content":"Z"}]}""")]
    [InlineData("""{"type":"Sequence","decoders":[{"type":"Fuse"},{"type":"Replace","pattern":{"String":"aba"},"content":""},{"type":"Metaspace","replacement":"\u2581"}]}""")]
    [InlineData("""{"type":"Replace","pattern":{"Regex":"[a-c]+"},"content":"Q"}""")]
    [InlineData("""{"type":"ByteLevel"}""")]
    [InlineData("""{"type":"CTC","pad_token":"b","word_delimiter_token":"\u2581","cleanup":true}""")]
    [InlineData("""{"type":"CTC","pad_token":"the","word_delimiter_token":".","cleanup":false}""")]
    // A text that is joined already: what needs it whole waits for the end.
    [InlineData("""{"type":"Sequence","decoders":[{"type":"Fuse"},{"type":"Replace","pattern":{"Regex":"[a-c]+"},"content":"Q"}]}""")]
    [InlineData("""{"type":"Sequence","decoders":[{"type":"Fuse"},{"type":"CTC"},{"type":"WordPiece"},{"type":"Strip","content":"t","start":1,"stop":1}]}""")]
    [InlineData("""{"type":"Sequence","decoders":[{"type":"Fuse"},{"type":"ByteFallback"},{"type":"BPEDecoder"},{"type":"ByteLevel"}]}""")]
    [InlineData("""{"type":"Sequence","decoders":[{"type":"CTC","pad_token":"b"},{"type":"WordPiece"},{"type":"Metaspace"}]}""")]
    public void IncrementsAddUpToTheDecodedText(string decoder)
    {
        Tokenizer tokenizer = JsonParts.Load(JsonParts.File(JsonParts.WordLevel(s_words), decoder: decoder == "null" ? null : decoder));
        DecodeStream stream = tokenizer.CreateStream(false);
        var random = new Random(11);
        for (int trial = 0; trial < 500; trial++)
        {
            int[] ids = [.. Enumerable.Range(0, random.Next(10)).Select(_ => random.Next(s_words.Length + 1))];
            string streamed = string.Concat(ids.Select(stream.Add)) + stream.Flush();
            Assert.Equal(tokenizer.Decode(ids, false), streamed);
        }
    }

    /// <summary>Equal neighbours are one unless padding stands between; the delimiter is a space.</summary>
    [Fact]
    public void CtcTokensAreThoseThatWereSaid()
    {
        string[] words = ["<pad>", "h", "e", "l", "o", "|", "w", "."];
        Tokenizer tokenizer = JsonParts.Load(JsonParts.File(JsonParts.WordLevel(words), decoder: """{"type":"CTC","pad_token":"<pad>","word_delimiter_token":"|","cleanup":true}"""));
        int[] ids = [.. "<pad> <pad> h e e l l <pad> l o o o <pad> | | w o . .".Split(' ').Select(w => tokenizer.TokenToId(w)!.Value)];
        Assert.Equal("hello wo.", tokenizer.Decode(ids, false));
        DecodeStream stream = tokenizer.CreateStream(false);
        Assert.Equal(["", "", "h", "e", "", "l", "", "", "l", "o", "", "", "", " ", "", "w", "o", ".", ""], ids.Select(stream.Add));
    }

    [Fact]
    public void OnlyTheBeginningOfACharacterIsHeldBack()
    {
        const string decoder = """{"type":"Sequence","decoders":[{"type":"ByteFallback"},{"type":"Fuse"}]}""";
        Tokenizer tokenizer = JsonParts.Load(JsonParts.File(JsonParts.Bytes(), decoder: decoder));
        DecodeStream stream = tokenizer.CreateStream(false);
        Assert.Equal(["", "", "", "\U0001F600"], tokenizer.Encode("\U0001F600", false).Select(stream.Add));
        Assert.Equal(["", "", "\uFFFD\uFFFD\u2581"], new[] { 0xE4 + 2, 0xBD + 2, 0 }.Select(stream.Add));
        Assert.Equal("", stream.Add(0xE4 + 2));
        Assert.Equal("\uFFFD", stream.Flush());
        Assert.Equal("", stream.Flush());
    }

    /// <summary>Bytes of every kind, cut anywhere: what comes out in parts is what comes out at once, for valid and invalid UTF-8.</summary>
    [Fact]
    public void ByteLevelStreamsEqualDecodingAtOnce()
    {
        string[] alphabet = [.. Enumerable.Range(0, 256).Select(b => ByteAlphabet.CharOf((byte)b).ToString())];
        Tokenizer tokenizer = JsonParts.Load(JsonParts.File(JsonParts.Bpe(alphabet), preTokenizer: JsonParts.ByteLevel, decoder: JsonParts.ByteLevel));
        byte[] bytes = [0x41, 0x80, 0xBF, 0xC0, 0xC3, 0xA9, 0xE0, 0xA0, 0xE4, 0xBD, 0xED, 0x9F, 0xEF, 0xF0, 0x9F, 0x98, 0xF4, 0x90, 0xF5, 0xFF];
        DecodeStream stream = tokenizer.CreateStream(false);
        var random = new Random(7);
        for (int trial = 0; trial < 3000; trial++)
        {
            int[] ids = [.. Enumerable.Range(0, random.Next(1, 9)).Select(_ => (int)bytes[random.Next(bytes.Length)])];
            Assert.Equal(tokenizer.Decode(ids, false), string.Concat(ids.Select(stream.Add)) + stream.Flush());
        }
        Assert.Equal("\U0001F600\u00e9", tokenizer.Decode(tokenizer.Encode("\U0001F600\u00e9", false), false));
    }
}
