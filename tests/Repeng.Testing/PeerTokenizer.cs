using System.Text;
using System.Text.Json;
using System.Text.RegularExpressions;
using Microsoft.ML.Tokenizers;

namespace Repeng.Testing;

/// <summary>
/// Tokenizers of Microsoft.ML.Tokenizers made from a tokenizer.json, which that library reads for Unigram only: the vocabulary,
/// merges and patterns of the file put into its own classes. What has no counterpart there (NFC, added tokens) is left
/// out, so the two are compared on texts where it changes nothing.
/// </summary>
public static class PeerTokenizer
{
    private const string Gpt2 = @"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+";

    /// <summary>All ways in which the library can take the file, by name; empty when there is none.</summary>
    public static IEnumerable<(string Name, Func<Tokenizer> Create)> All(string file)
    {
        using JsonDocument json = JsonDocument.Parse(File.ReadAllBytes(file));
        JsonElement root = json.RootElement.Clone(), model = root.GetProperty("model");
        switch (model.GetProperty("type").GetString())
        {
            case "Unigram":
                yield return ("SentencePieceTokenizer (Unigram)", () => SentencePieceTokenizer.CreateFromTokenizerJson(File.OpenRead(file), false, false));
                break;
            case "WordPiece":
                yield return ("BertTokenizer", () => BertTokenizer.Create(WordList(model)));
                break;
            case "BPE" when model.TryGetProperty("byte_fallback", out JsonElement fallback) && fallback.ValueKind == JsonValueKind.True:
                yield return ("SentencePieceTokenizer (BPE)", () => SentencePieceTokenizer.Create(SentencePieceModel(root, model), addBeginningOfSentence: false, addEndOfSentence: false));
                break;
            case "BPE":
                var pattern = new RegexPreTokenizer(new Regex(Patterns(root.GetProperty("pre_tokenizer")).First(), RegexOptions.Compiled | RegexOptions.CultureInvariant), null);
                yield return ("TiktokenTokenizer", () => TiktokenTokenizer.Create(Ranks(model), pattern, null));
                yield return ("BpeTokenizer", () => BpeTokenizer.Create(new BpeOptions(Vocabulary(model)) { Merges = Merges(model), PreTokenizer = pattern, ByteLevel = true }));
                break;
        }
    }

    private static IEnumerable<string> Patterns(JsonElement step) => step.GetProperty("type").GetString() switch
    {
        "Sequence" => step.GetProperty("pretokenizers").EnumerateArray().SelectMany(Patterns),
        // Digits one by one before GPT-2's pattern are the same as this pattern of both: digits stand alone, and end a run of blanks.
        "Digits" => [Gpt2.Replace(@" ?\p{N}+", @"\p{N}", StringComparison.Ordinal).Replace(@"(?!\S)", @"(?![^\s\p{N}])", StringComparison.Ordinal)],
        "ByteLevel" when step.GetProperty("use_regex").GetBoolean() => [Gpt2],
        "Split" when step.GetProperty("pattern").TryGetProperty("Regex", out JsonElement regex) => [regex.GetString()!],
        _ => [],
    };

    private static IEnumerable<KeyValuePair<string, int>> Vocabulary(JsonElement model) =>
        model.GetProperty("vocab").EnumerateObject().Select(p => KeyValuePair.Create(p.Name, p.Value.GetInt32()));

    private static IEnumerable<string> Merges(JsonElement model) => model.GetProperty("merges").EnumerateArray()
        .Select(m => m.ValueKind == JsonValueKind.String ? m.GetString()! : $"{m[0].GetString()} {m[1].GetString()}");

    private static MemoryStream WordList(JsonElement model) =>
        new(Encoding.UTF8.GetBytes(string.Join('\n', Vocabulary(model).OrderBy(v => v.Value).Select(v => v.Key))));

    /// <summary>Tiktoken's file: the bytes of each token in base64, and its id as its rank.</summary>
    private static MemoryStream Ranks(JsonElement model)
    {
        Dictionary<char, byte> bytes = [];
        int next = 256;
        for (int b = 0; b < 256; b++)
            bytes[b is (>= '!' and <= '~') or (>= 0xA1 and <= 0xAC) or (>= 0xAE and <= 0xFF) ? (char)b : (char)next++] = (byte)b;
        var lines = new StringBuilder();
        foreach ((string token, int id) in Vocabulary(model).OrderBy(v => v.Value))
            if (token.All(bytes.ContainsKey))
                lines.Append(Convert.ToBase64String([.. token.Select(c => bytes[c])])).Append(' ').Append(id).Append('\n');
        return new MemoryStream(Encoding.UTF8.GetBytes(lines.ToString()));
    }

    /// <summary>
    /// SentencePiece's model file (sentencepiece_model.proto): pieces with scores, which are minus the rank of the first merge that
    /// makes them, the trainer's kind (BPE, byte fallback), the normalizer's prefix.
    /// </summary>
    private static MemoryStream SentencePieceModel(JsonElement root, JsonElement model)
    {
        const int normal = 1, unknown = 2, control = 3, bytePiece = 6, bpe = 2;
        Dictionary<string, int> ranks = [];
        int rank = 0;
        foreach (JsonElement merge in model.GetProperty("merges").EnumerateArray())
        {
            string whole = merge.ValueKind == JsonValueKind.String ? merge.GetString()!.Replace(" ", "", StringComparison.Ordinal) : merge[0].GetString() + merge[1].GetString();
            ranks.TryAdd(whole, rank++);
        }
        var file = new MemoryStream();
        HashSet<string> special = [.. root.GetProperty("added_tokens").EnumerateArray().Where(t => t.GetProperty("special").GetBoolean()).Select(t => t.GetProperty("content").GetString()!)];
        string? unk = model.GetProperty("unk_token").GetString();
        int unkId = 0;
        foreach ((string token, int id) in Vocabulary(model).OrderBy(v => v.Value))
        {
            int type = token == unk ? unknown : special.Contains(token) ? control : token.Length == 6 && token.StartsWith("<0x", StringComparison.Ordinal) ? bytePiece : normal;
            unkId = type == unknown ? id : unkId;
            float score = ranks.TryGetValue(token, out int r) ? -r : -1e6f;
            Message(file, 1, [.. Bytes(1, Encoding.UTF8.GetBytes(token)), .. Fixed32(2, score), .. Number(3, type)]);
        }
        Message(file, 2, [.. Number(3, bpe), .. Number(35, 1), .. Number(40, unkId), .. Number(41, 1), .. Number(42, 2)]);
        bool prefix = root.GetProperty("normalizer").GetRawText().Contains("\"Prepend\"", StringComparison.Ordinal);
        Message(file, 3, [.. Number(3, prefix ? 1 : 0), .. Number(4, 0), .. Number(5, 1)]);
        file.Position = 0;
        return file;

        static void Message(MemoryStream to, int field, byte[] content) => to.Write([.. Bytes(field, content)]);
        static byte[] Bytes(int field, byte[] content) => [.. Varint((ulong)field << 3 | 2), .. Varint((ulong)content.Length), .. content];
        static byte[] Number(int field, int value) => [.. Varint((ulong)field << 3), .. Varint((ulong)value)];
        static byte[] Fixed32(int field, float value) => [.. Varint((ulong)field << 3 | 5), .. BitConverter.GetBytes(value)];
        static byte[] Varint(ulong value)
        {
            List<byte> bytes = [];
            for (; value > 127; value >>= 7)
                bytes.Add((byte)(value | 128));
            return [.. bytes, (byte)value];
        }
    }
}
