using System.Globalization;
using System.Text.Json.Nodes;
using Repeng.Kernels;
using Repeng.Runtime.Formats;

namespace Repeng.Runtime.Tokenizers;

/// <summary>
/// GGUF's tokenizer metadata from a folder with tokenizer.json. GGUF names how text is split instead of saying it, so the
/// name is found by trying: the tokenizer that the metadata gives must have the ids of the original on a set of texts.
/// </summary>
public static class GgufTokenizerExport
{
    // Below every score of a merge; of tokens that no merge makes.
    private const float LowestScore = -1e6f, AddedScore = -1000;

    /// <summary>Texts that tell the splitting rules of known families apart.</summary>
    private static readonly string[] s_probes =
    [
        "Hello world, it's   me.  ", " I'll we've DON'T you'RE 'tis", "1 12 123 1234 12345 3.14 v2.0b7 1,000,000", "\n\n\t x\r\n \n  y\n", "naïve café e\u0301migre\u0301 Straße",
        "名字 テスト 한국어 привет مرحبا ไทย हिन्दी", "🚀 😶‍🌫️ 🦙🦙 ½ ٣٤ Ⅳ", "def foo_bar(x): return x**2 != {'a': [1, 2]} // ok ///", "ALLCAPS CamelCaseWord snake_case HTTPServer iPhone", "a ... b !!! c ?!? ------ === ~~~ #tag @me /usr/bin",
        "  leading", "trailing  ", "\u00A0nbsp\u2009thin\u3000wide", "x\u200Dy \u0301z", "<not> [a] |token| $5 100%",
    ];

    /// <summary>Reads tokenizer.json (and tokenizer_config.json) of a folder as GGUF metadata.</summary>
    /// <exception cref="UserErrorException">There is no tokenizer.json, or its kind or way of splitting has no name in GGUF.</exception>
    public static GgufTokenizer FromFolder(string folder)
    {
        Tokenizer original = Tokenizer.Load(folder);
        string file = Path.Combine(folder, "tokenizer.json");
        JsonFields json = JsonFile.ReadObject(file);
        JsonFields model = json.Object("model");
        // Files before 2021 have no type.
        string type = model.OptionalText("type") ?? "BPE";
        bool byteLevel = Contains(json.Json["pre_tokenizer"], "ByteLevel"), byteFallback = model.OptionalBoolean("byte_fallback") ?? false;
        if (type != "BPE" || (!byteLevel && !byteFallback))
            throw new UserErrorException($"{file}: a tokenizer of type {type}{(type == "BPE" ? " without bytes" : "")} cannot be written as GGUF; llama.cpp knows byte-level BPE (gpt2) and SentencePiece with byte fallback (llama)");
        GgufTokenizer tokens = Tokens(original, json, model, byteFallback && !byteLevel, file);
        IEnumerable<GgufTokenizer> candidates = byteLevel ? ByPreTokenizer(tokens, json, model) : new[] { true, false }.OrderByDescending(prefix => prefix == Contains(json.Json["normalizer"], "Prepend")).Select(prefix => tokens with { AddSpacePrefix = prefix });
        string? differs = null;
        foreach (GgufTokenizer candidate in candidates)
        {
            differs = Differs(original, Tokenizer.FromGguf(candidate, file));
            if (differs is null)
                return candidate;
        }
        throw new UserErrorException($"{file}: no way of splitting text that GGUF has a name for gives the ids of this tokenizer (the last one tried differs on {JsonSection.Quote(differs!)}); known are {string.Join(", ", GgufPreTokenizer.Names)}");
    }

    private static GgufTokenizer Tokens(Tokenizer original, JsonFields json, JsonFields model, bool sentencePiece, string file)
    {
        int count = original.VocabularySize;
        var texts = new string[count];
        var types = new int[count];
        var scores = new float[count];
        for (int id = 0; id < count; id++)
        {
            texts[id] = original.IdToToken(id) ?? $"[PAD{id}]";
            types[id] = original.IdToToken(id) is null ? GgufTokenizerBuilder.Unused : sentencePiece && IsByte(texts[id]) ? GgufTokenizerBuilder.Byte : GgufTokenizerBuilder.Normal;
            scores[id] = LowestScore;
        }
        string[] merges = Merges(model, original, scores, file);
        foreach (JsonNode? node in json.OptionalArray("added_tokens") ?? [])
        {
            var added = new JsonFields(node as JsonObject ?? throw new UserErrorException($"{file}: added_tokens must hold objects"), file);
            int id = added.Int32("id", 0, count - 1);
            types[id] = added.OptionalBoolean("special") is true ? GgufTokenizerBuilder.Control : GgufTokenizerBuilder.UserDefined;
            scores[id] = AddedScore;
        }
        int? unknown = model.OptionalText("unk_token") is { } unk ? original.TokenToId(unk) : original.UnkId;
        if (sentencePiece && unknown is { } u)
            types[u] = GgufTokenizerBuilder.Unknown;
        (int? bos, bool addBos, bool addEos) = Around(original, file);
        return new GgufTokenizer
        {
            Model = sentencePiece ? "llama" : "gpt2",
            Pre = sentencePiece ? "default" : null,
            Tokens = texts,
            TokenTypes = types,
            Scores = sentencePiece ? scores : null,
            Merges = sentencePiece ? null : merges,
            BosId = bos,
            EosId = original.EosId,
            PadId = original.PadId,
            UnknownId = unknown,
            AddBos = addBos,
            AddEos = addEos,
            ChatTemplate = original.ChatTemplate,
        };
    }

    /// <summary>What encoding puts around a text: nothing, bos, eos or both.</summary>
    private static (int? Bos, bool AddBos, bool AddEos) Around(Tokenizer original, string file)
    {
        int[] plain = original.Encode("a", false), full = original.Encode("a", true);
        int at = Enumerable.Range(0, full.Length - plain.Length + 1).FirstOrDefault(i => full.AsSpan(i, plain.Length).SequenceEqual(plain), -1);
        int after = full.Length - plain.Length - at;
        if (at is < 0 or > 1 || after > 1 || (after == 1 && full[^1] != original.EosId))
            throw new UserErrorException($"{file}: the tokenizer puts [{string.Join(", ", full)}] for the text 'a'; GGUF can say one token before (bos) and eos behind a text");
        return (at == 1 ? full[0] : original.BosId, at == 1, after == 1);
    }

    /// <summary>Merges as GGUF writes them; scores get, for every token that a merge makes, minus the place of the first such merge.</summary>
    private static string[] Merges(JsonFields model, Tokenizer original, float[] scores, string file)
    {
        JsonArray array = model.OptionalArray("merges") ?? throw new UserErrorException($"{file}: model.merges is missing");
        var merges = new string[array.Count];
        for (int rank = 0; rank < merges.Length; rank++)
        {
            string[] pair = array[rank] is JsonArray { Count: 2 } two ? [(string)two[0]!, (string)two[1]!] : ((string)array[rank]!).Split(' ');
            if (pair.Length != 2 || pair[0].Contains(' ', StringComparison.Ordinal) || pair[1].Contains(' ', StringComparison.Ordinal))
                throw new UserErrorException($"{file}: merge {rank} is not of two tokens without spaces, which GGUF cannot say");
            merges[rank] = $"{pair[0]} {pair[1]}";
            if (original.TokenToId(pair[0] + pair[1]) is { } id && scores[id] == LowestScore)
                scores[id] = -rank;
        }
        return merges;
    }

    /// <summary>The metadata with each known name, those first that look like the file.</summary>
    private static IEnumerable<GgufTokenizer> ByPreTokenizer(GgufTokenizer tokens, JsonFields json, JsonFields model)
    {
        string steps = json.Json["pre_tokenizer"]?.ToJsonString(new() { Encoder = System.Text.Encodings.Web.JavaScriptEncoder.UnsafeRelaxedJsonEscaping }) ?? "";
        bool ignoresMerges = model.OptionalBoolean("ignore_merges") ?? false, composes = Contains(json.Json["normalizer"], "NFC");
        return GgufPreTokenizer.Names.OrderByDescending(Likeness).ThenBy(n => n, StringComparer.Ordinal).Select(name => tokens with { Pre = name });

        int Likeness(string name)
        {
            GgufPreTokenizer p = GgufPreTokenizer.Find(name)!;
            int likeness = (p.IgnoreMerges == ignoresMerges ? 1 : 0) + (p.ComposesUnicode == composes ? 1 : 0) + (p.SingleDigits == Contains(json.Json["pre_tokenizer"], "Digits") ? 1 : 0);
            // JSON doubles the backslashes of an expression.
            return likeness + 4 * p.Patterns.Count(x => steps.Contains(x.Replace("\\", "\\\\", StringComparison.Ordinal), StringComparison.Ordinal)) + (p.SplitsWords == (p.Patterns.Count == 0 && !steps.Contains("\"Split\"", StringComparison.Ordinal)) ? 2 : 0);
        }
    }

    /// <summary>The first text whose ids differ, or null.</summary>
    private static string? Differs(Tokenizer original, Tokenizer candidate) =>
        s_probes.FirstOrDefault(text => !original.Encode(text, true).AsSpan().SequenceEqual(candidate.Encode(text, true)));

    private static bool IsByte(string token) => token.Length == 6 && token.StartsWith("<0x", StringComparison.Ordinal) && token[5] == '>' && byte.TryParse(token.AsSpan(3, 2), NumberStyles.AllowHexSpecifier, null, out _);

    private static bool Contains(JsonNode? node, string type) => node switch
    {
        JsonObject o => (o["type"] is JsonValue v && v.TryGetValue(out string? name) && name == type) || o.Any(p => Contains(p.Value, type)),
        JsonArray a => a.Any(n => Contains(n, type)),
        _ => false,
    };
}
