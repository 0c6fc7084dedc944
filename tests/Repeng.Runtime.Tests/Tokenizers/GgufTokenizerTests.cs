using System.Text.Json;
using Repeng.Kernels;
using Repeng.Runtime.Formats;
using Repeng.Runtime.Tests.Formats;
using Repeng.Runtime.Tokenizers;
using Repeng.Testing;

namespace Repeng.Runtime.Tests.Tokenizers;

public sealed class GgufTokenizerTests
{
    private const string Absent = "absent";

    private static GgufTokenizer ByteLevel(string? pre = "smollm") => new()
    {
        Model = "gpt2",
        Pre = pre,
        Tokens = ["<s>", "<tool>", "a", "b", "1", "\u0120", "\u0120a", "ab", ""],
        TokenTypes = [3, 4, 1, 1, 1, 1, 1, 1, 5],
        Merges = ["\u0120 a", "a b"],
        BosId = 0,
        EosId = 0,
        ChatTemplate = "T",
    };

    private static GgufTokenizer SentencePiece() => new()
    {
        Model = "llama",
        Tokens = ["<unk>", "<s>", "</s>", "<0x41>", "<0x42>", "\u2581", "a", "b", "ab", "\u2581ab", "ba", "<x>"],
        TokenTypes = [2, 3, 3, 6, 6, 1, 1, 1, 1, 1, 1, 4],
        Scores = [0, 0, 0, 0, 0, -5, -6, -7, -2, -3, -1, 0],
        BosId = 1,
        EosId = 2,
        UnknownId = 0,
    };

    [Fact]
    public void AByteLevelVocabularyWorksAsItsPreTokenizerNameSays()
    {
        Tokenizer tokenizer = Tokenizer.FromGguf(ByteLevel(), "m.gguf");
        Assert.Equal([7, 6, 3, 4, 4, 0, 1, 2], tokenizer.Encode("ab ab11<s><tool>a", true));
        Assert.Equal("ab<tool>a", tokenizer.Decode([0, 7, 1, 2], true));
        Assert.Equal((0, 0, "T"), (tokenizer.BosId, tokenizer.EosId, tokenizer.ChatTemplate));
        Assert.Equal("<s>", tokenizer.SpecialTokenTexts["eos_token"]);
        Assert.Equal([0, 7, 0], Tokenizer.FromGguf(ByteLevel() with { AddBos = true, AddEos = true }, "m.gguf").Encode("ab", true));
    }

    [Fact]
    public void NamesOfTheLlama3FamilyAddABosUnlessTheFileSaysNo()
    {
        Assert.Equal([0, 7], Tokenizer.FromGguf(ByteLevel("llama-bpe"), "m.gguf").Encode("ab", true));
        Assert.Equal([7], Tokenizer.FromGguf(ByteLevel("llama-bpe") with { AddBos = false }, "m.gguf").Encode("ab", true));
        Assert.Equal([7], Tokenizer.FromGguf(ByteLevel("qwen2"), "m.gguf").Encode("ab", true));
    }

    [Fact]
    public void ASentencePieceVocabularyMergesByScore()
    {
        Tokenizer tokenizer = Tokenizer.FromGguf(SentencePiece(), "m.gguf");
        // ▁ab|a: "ba" scores highest, so a b a is a + ba. Unknown letters are bytes, where the bytes are there.
        Assert.Equal([1, 5, 6, 10], tokenizer.Encode("aba", true));
        Assert.Equal([9, 9], tokenizer.Encode("ab ab", false));
        Assert.Equal([9, 3, 4, 0], tokenizer.Encode("abABCD", false));
        Assert.Equal([9, 11, 9], tokenizer.Encode("ab<x>ab", false));
        Assert.Equal("ab abA", tokenizer.Decode([1, 9, 9, 3], true));
        Assert.Equal([8], Tokenizer.FromGguf(SentencePiece() with { AddSpacePrefix = false, AddBos = false }, "m.gguf").Encode("ab", true));
    }

    [Fact]
    public void LongTokensOfASentencePieceVocabularyCostLittleAndEndlessOnesAreRefused()
    {
        // Ends with a character of four bytes, which no cut goes through.
        GgufTokenizer With(int bytes) => SentencePiece() with { Tokens = [.. SentencePiece().Tokens[..^1], new string('a', bytes - 5) + "\U0001F999b"], TokenTypes = [2, 3, 3, 6, 6, 1, 1, 1, 1, 1, 1, 1] };
        long before = GC.GetAllocatedBytesForCurrentThread();
        Tokenizer tokenizer = Tokenizer.FromGguf(With(1024), "m.gguf");
        Assert.InRange(GC.GetAllocatedBytesForCurrentThread() - before, 0, 1 << 20);
        Assert.Equal([9, 9], tokenizer.Encode("ab ab", false));
        string message = ErrorOf(With(1025));
        Assert.Contains("tokens[11] has 1025 bytes", message, StringComparison.Ordinal);
        Assert.True(message.Length < 200, message);
    }

    [Fact]
    public void TooManyTokensAreRefusedBeforeMemoryIsTakenForThem()
    {
        string[] tokens = new string[Vocabulary.IdLimit + 1];
        Array.Fill(tokens, "");
        long before = GC.GetAllocatedBytesForCurrentThread();
        Assert.Contains($"{tokens.Length} tokens; at most {Vocabulary.IdLimit}", ErrorOf(new GgufTokenizer { Model = "bert", Tokens = tokens }), StringComparison.Ordinal);
        Assert.InRange(GC.GetAllocatedBytesForCurrentThread() - before, 0, 1 << 20);
        // Places that no token fills take none either.
        before = GC.GetAllocatedBytesForCurrentThread();
        ErrorOf(new GgufTokenizer { Model = "bert", Tokens = tokens[..(1 << 20)] });
        Assert.InRange(GC.GetAllocatedBytesForCurrentThread() - before, 0, 10 << 20);
    }

    /// <summary>Whatever kind the tokenizer is, a file written from it gives it back.</summary>
    [Fact]
    public void WhatIsWrittenIsReadAgain()
    {
        using var folder = new TempFolder();
        GgufTokenizer[] all =
        [
            ByteLevel() with { AddBos = true, EotId = 1, Scores = [0, 1, 2, 3, 4, 5, 6, 7, 8] }, SentencePiece() with { AddSpacePrefix = false },
            Unigrams() with { PrecompiledCharsMap = [0, 0, 0, 0, 0xC3, 0xA9, 0], RemoveExtraWhitespaces = true, AddEos = true }, WordPieces(),
        ];
        for (int i = 0; i < all.Length; i++)
        {
            string path = Path.Combine(folder.Root, $"{i}.gguf");
            var writer = new GgufWriter("llama");
            all[i].WriteTo(writer, all[i].Tokens.Length);
            writer.Write(path);
            using GgufFile file = GgufFile.Open(path);
            Assert.Equivalent(all[i], GgufTokenizer.Read(file), strict: true);
        }
    }

    [Fact]
    public void ACharacterMapMustBeBytes()
    {
        using var folder = new TempFolder();
        string path = Path.Combine(folder.Root, "x.gguf");
        new GgufWriter("t5").Add("tokenizer.ggml.model", "t5").Add("tokenizer.ggml.tokens", ["a"]).Add("tokenizer.ggml.precompiled_charsmap", (ReadOnlySpan<int>)[1, 2]).Write(path);
        using GgufFile file = GgufFile.Open(path);
        string message = Assert.Throws<UserErrorException>(() => GgufTokenizer.Read(file)).Message;
        Assert.Contains("precompiled_charsmap", message, StringComparison.Ordinal);
        Assert.Contains("an array of bytes is needed", message, StringComparison.Ordinal);
    }

    private static GgufTokenizer Unigrams() => new()
    {
        Model = "t5",
        Tokens = ["<pad>", "</s>", "<unk>", "\u2581", "\u2581the", "\u2581cat", "s", "t", "h", "e", "<x>"],
        TokenTypes = [3, 3, 2, 1, 1, 1, 1, 1, 1, 1, 4],
        Scores = [0, 0, 0, -2, -3, -4, -2.5f, -5, -5, -5, 0],
        EosId = 1,
        UnknownId = 2,
        PadId = 0,
    };

    [Fact]
    public void AT5VocabularyIsUnigrams()
    {
        Tokenizer tokenizer = Tokenizer.FromGguf(Unigrams(), "m.gguf");
        Assert.Equal([4, 5, 6, 1], tokenizer.Encode("the cats", true));
        Assert.Equal([4, 3, 2, 10, 3, 6], tokenizer.Encode("the xy<x>s", false));
        Assert.Equal([3, 3, 4], tokenizer.Encode("   the", false));
        Assert.Equal([4, 5], Tokenizer.FromGguf(Unigrams() with { RemoveExtraWhitespaces = true, AddEos = false }, "m.gguf").Encode("  the   cat ", true));
        Assert.Equal("the cats", tokenizer.Decode([4, 5, 6, 1], true));
        Assert.Equal([2, 6], Tokenizer.FromGguf(Unigrams() with { AddSpacePrefix = false }, "m.gguf").Encode("xs", false));
    }

    private static GgufTokenizer WordPieces() => new()
    {
        Model = "bert",
        Tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "\u2581un", "want", "ed", "\u2581runn", "ing", "\u2581,"],
        TokenTypes = [3, 3, 3, 3, 1, 1, 1, 1, 1, 1],
        ClsId = 2,
        SepId = 3,
        UnknownId = 1,
    };

    [Fact]
    public void ABertVocabularyIsWordPieces()
    {
        Tokenizer tokenizer = Tokenizer.FromGguf(WordPieces(), "m.gguf");
        Assert.Equal(("[CLS]", "[SEP]", "[UNK]"), (tokenizer.SpecialTokenTexts["cls_token"], tokenizer.SpecialTokenTexts["sep_token"], tokenizer.SpecialTokenTexts["unk_token"]));
        Assert.Equal([2, 4, 5, 6, 9, 7, 8, 3], tokenizer.Encode("UNwant\u00E9d,running", true));
        Assert.Equal([1, 7, 8], tokenizer.Encode("wanted running", false));
        Assert.Equal("unwanted , running", tokenizer.Decode([2, 4, 5, 6, 9, 7, 8, 3], true));
    }

    [Fact]
    public void WhatIsUnknownOrContradictoryIsRefusedByName()
    {
        Assert.Contains("known are", ErrorOf(ByteLevel("klingon")), StringComparison.Ordinal);
        Assert.Contains("smollm", ErrorOf(ByteLevel("klingon")), StringComparison.Ordinal);
        Assert.Contains("tokenizer.ggml.pre", ErrorOf(ByteLevel(null)), StringComparison.Ordinal);
        Assert.Contains("\"rwkv\" is not supported; supported are gpt2, llama, t5, bert", ErrorOf(ByteLevel() with { Model = "rwkv" }), StringComparison.Ordinal);
        Assert.Contains("the cls token, but tokenizer.ggml.cls_token_id", ErrorOf(WordPieces() with { ClsId = null }), StringComparison.Ordinal);
        Assert.Contains("the sep token, but tokenizer.ggml.seperator_token_id", ErrorOf(WordPieces() with { SepId = null }), StringComparison.Ordinal);
        Assert.Contains("seperator_token_id is 99", ErrorOf(WordPieces() with { SepId = 99 }), StringComparison.Ordinal);
        Assert.Contains("cls_token_id is 99", ErrorOf(WordPieces() with { ClsId = 99 }), StringComparison.Ordinal);
        Assert.Contains("scores", ErrorOf(ByteLevel() with { Model = "t5" }), StringComparison.Ordinal);
        Assert.Contains("precompiled_charsmap", ErrorOf(Unigrams() with { PrecompiledCharsMap = [9, 0] }), StringComparison.Ordinal);
        Assert.Contains("merges", ErrorOf(ByteLevel() with { Merges = null }), StringComparison.Ordinal);
        Assert.Contains("merges[0]", ErrorOf(ByteLevel() with { Merges = ["a z"] }), StringComparison.Ordinal);
        Assert.Contains("merges[0]", ErrorOf(ByteLevel() with { Merges = ["ab"] }), StringComparison.Ordinal);
        Assert.Contains("token_type", ErrorOf(ByteLevel() with { TokenTypes = [1] }), StringComparison.Ordinal);
        Assert.Contains("99", ErrorOf(ByteLevel() with { BosId = 99 }), StringComparison.Ordinal);
        Assert.Contains("bos", ErrorOf(ByteLevel() with { BosId = null, AddBos = true }), StringComparison.Ordinal);
        Assert.Contains("occurs twice", ErrorOf(ByteLevel() with { Tokens = ["a", "a", "a", "b", "1", "c", "d", "ab", ""] }), StringComparison.Ordinal);
        Assert.Contains("scores", ErrorOf(SentencePiece() with { Scores = null }), StringComparison.Ordinal);
        Assert.Contains("scores[1]", ErrorOf(SentencePiece() with { Scores = [0, float.NaN, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0] }), StringComparison.Ordinal);
    }

    public static TheoryData<string> GoldenModels()
    {
        string folder = Golden.Path("gguf");
        string[] names = !Directory.Exists(folder) ? [] : [.. Directory.GetFiles(folder, "*.gguf").Select(f => Path.GetFileName(f)).Order(StringComparer.Ordinal)];
        return new TheoryData<string>(names.Length == 0 ? [Absent] : names);
    }

    [Theory]
    [MemberData(nameof(GoldenModels))]
    [Trait("Category", "Golden")]
    [Trait("Golden", "gguf")]
    public void IdsOfAGoldenFileAreEqual(string name)
    {
        string path = Golden.Require("gguf", name);
        using GgufFile file = GgufFile.Open(path);
        Tokenizer fromGguf = Tokenizer.FromGguf(GgufTokenizer.Read(file)!, path);
        Tokenizer fromJson = Tokenizer.Load(Golden.Require("gguf", "tokenizer.json"));
        using JsonDocument cases = JsonDocument.Parse(File.ReadAllBytes(Golden.Require("gguf", "tokenizer_cases.json")));
        Assert.NotEqual(0, cases.RootElement.GetArrayLength());
        foreach (JsonElement row in cases.RootElement.EnumerateArray())
        {
            string text = row.GetProperty("text").GetString()!;
            int[] ids = [.. row.GetProperty("ids").EnumerateArray().Select(e => e.GetInt32())];
            Assert.Equal(ids, fromGguf.Encode(text, false));
            Assert.Equal(ids, fromJson.Encode(text, false));
            Assert.Equal(text, fromGguf.Decode(ids, false));
        }
    }

    /// <summary>The real model's metadata gives the ids, texts and template that its tokenizer.json gives.</summary>
    [Fact]
    [Trait("Category", "Golden")]
    [Trait("Golden", "smollm2")]
    public void TheRealModelTokenizesAsItsTokenizerJson()
    {
        const string name = "smollm2";
        using JsonDocument prompts = JsonDocument.Parse(File.ReadAllBytes(Golden.Require(name, "prompts.json")));
        string[] models = Directory.GetFiles(Golden.RequireBeside("models"), "*.gguf", SearchOption.AllDirectories);
        Assert.SkipUnless(models.Length > 0, $"no .gguf in {Golden.Beside("models")}");
        long hidden = JsonFile.ReadObject(Golden.Require(name, "config.json")).Integer("hidden_size");
        int judged = 0;
        foreach (string path in models)
        {
            // Other models may lie beside it.
            using (GgufModel model = GgufModel.Open(path))
                if (model.Config["hidden_size"]!.GetValue<long>() != hidden)
                    continue;
            judged++;
            using GgufFile file = GgufFile.Open(path);
            Tokenizer fromGguf = Tokenizer.FromGguf(GgufTokenizer.Read(file)!, path);
            foreach (JsonElement row in prompts.RootElement.EnumerateArray())
                Assert.Equal(row.GetProperty("ids").EnumerateArray().Select(e => e.GetInt32()), fromGguf.Encode(row.GetProperty("text").GetString()!, false));

            Tokenizer fromJson = Tokenizer.Load(Golden.RequireBeside("tokenizers", name));
            Assert.Equal(fromJson.VocabularySize, fromGguf.VocabularySize);
            Assert.Equal((fromJson.BosId, fromJson.EosId, fromJson.PadId, fromJson.UnkId), (fromGguf.BosId, fromGguf.EosId, fromGguf.PadId, fromGguf.UnkId));
            Assert.Equal(fromJson.ChatTemplate, fromGguf.ChatTemplate);
            using JsonDocument strings = JsonDocument.Parse(File.ReadAllBytes(Golden.Require("tokenizers", "strings.json")));
            foreach (JsonElement row in strings.RootElement.GetProperty("rows").EnumerateArray())
            {
                string text = row[2].GetString()!;
                int[] ids = fromJson.Encode(text, true);
                Assert.Equal(ids, fromGguf.Encode(text, true));
                Assert.Equal(fromJson.Decode(ids, true), fromGguf.Decode(ids, true));
            }
        }
        Assert.True(judged > 0, $"no model below {Golden.Beside("models")} has the hidden size {hidden}");
    }

    private static string ErrorOf(GgufTokenizer metadata)
    {
        UserErrorException error = Assert.Throws<UserErrorException>(() => Tokenizer.FromGguf(metadata, "m.gguf"));
        Assert.StartsWith("m.gguf: ", error.Message, StringComparison.Ordinal);
        return error.Message;
    }
}
