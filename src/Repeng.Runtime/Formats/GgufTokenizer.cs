using Repeng.Kernels;

namespace Repeng.Runtime.Formats;

/// <summary>What a GGUF file says about its tokenizer (keys tokenizer.ggml.* and tokenizer.chat_template), checked but not interpreted.</summary>
public sealed record GgufTokenizer
{
    /// <summary>Kind of tokenizer: gpt2 for byte-level BPE, llama for SentencePiece's BPE, t5 for its unigrams, bert for WordPiece.</summary>
    public required string Model { get; init; }

    /// <summary>Name of the pre-tokenizer, such as smollm; null where the file gives none.</summary>
    public string? Pre { get; init; }

    /// <summary>Text of every token, by id.</summary>
    public required string[] Tokens { get; init; }

    /// <summary>SentencePiece scores, one a token; null where the file gives none.</summary>
    public float[]? Scores { get; init; }

    /// <summary>Kind of every token: 1 normal, 2 unknown, 3 control, 4 user defined, 5 unused, 6 byte; null where the file gives none.</summary>
    public int[]? TokenTypes { get; init; }

    /// <summary>BPE merges, "left right", most important first; null where the file gives none.</summary>
    public string[]? Merges { get; init; }

    /// <summary>Id of the begin-of-sequence token.</summary>
    public int? BosId { get; init; }

    /// <summary>Id of the end-of-sequence token.</summary>
    public int? EosId { get; init; }

    /// <summary>Id of the end-of-turn token.</summary>
    public int? EotId { get; init; }

    /// <summary>Id of the padding token.</summary>
    public int? PadId { get; init; }

    /// <summary>Id of the unknown token.</summary>
    public int? UnknownId { get; init; }

    /// <summary>Id of the token in front of a text of BERT.</summary>
    public int? ClsId { get; init; }

    /// <summary>Id of the token behind a text of BERT.</summary>
    public int? SepId { get; init; }

    /// <summary>SentencePiece's compiled replacements; null where the file gives none.</summary>
    public byte[]? PrecompiledCharsMap { get; init; }

    /// <summary>Whether blanks around a text and all but one of a run of them are left out.</summary>
    public bool? RemoveExtraWhitespaces { get; init; }

    /// <summary>Whether the begin-of-sequence token is put before every text.</summary>
    public bool? AddBos { get; init; }

    /// <summary>Whether the end-of-sequence token is put after every text.</summary>
    public bool? AddEos { get; init; }

    /// <summary>Whether a blank is put before every text.</summary>
    public bool? AddSpacePrefix { get; init; }

    /// <summary>Jinja chat template.</summary>
    public string? ChatTemplate { get; init; }

    /// <summary>Reads it; null where the file has no tokenizer.ggml.model, <see cref="UserErrorException"/> where lists and ids do not fit together.</summary>
    public static GgufTokenizer? Read(GgufFile file)
    {
        GgufMetadata m = file.Metadata;
        if (!m.Has("tokenizer.ggml.model"))
            return null;
        string[] tokens = m.OptionalTexts("tokenizer.ggml.tokens") ?? throw m.Bad("tokenizer.ggml.tokens", "is missing beside tokenizer.ggml.model");
        int count = tokens.Length;
        return new GgufTokenizer
        {
            Model = m.Text("tokenizer.ggml.model"),
            Pre = m.OptionalText("tokenizer.ggml.pre"),
            Tokens = tokens,
            Scores = PerToken(m, "tokenizer.ggml.scores", m.OptionalNumbers("tokenizer.ggml.scores"), count)?.Select(v => (float)v).ToArray(),
            TokenTypes = PerToken(m, "tokenizer.ggml.token_type", m.OptionalIntegers("tokenizer.ggml.token_type", 0, 255), count)?.Select(v => (int)v).ToArray(),
            Merges = m.OptionalTexts("tokenizer.ggml.merges"),
            BosId = TokenId(m, "bos", count),
            EosId = TokenId(m, "eos", count),
            EotId = TokenId(m, "eot", count),
            PadId = TokenId(m, "padding", count),
            UnknownId = TokenId(m, "unknown", count),
            ClsId = TokenId(m, "cls", count),
            // The name is misspelt in the format.
            SepId = TokenId(m, "seperator", count),
            PrecompiledCharsMap = m.OptionalBytes("tokenizer.ggml.precompiled_charsmap"),
            RemoveExtraWhitespaces = m.OptionalBoolean("tokenizer.ggml.remove_extra_whitespaces"),
            AddBos = m.OptionalBoolean("tokenizer.ggml.add_bos_token"),
            AddEos = m.OptionalBoolean("tokenizer.ggml.add_eos_token"),
            AddSpacePrefix = m.OptionalBoolean("tokenizer.ggml.add_space_prefix"),
            ChatTemplate = m.OptionalText("tokenizer.chat_template"),
        };
    }

    /// <summary>Writes the same keys. Tokens up to the embedding's rows are filled with unused ones, as llama.cpp's converter does.</summary>
    internal void WriteTo(GgufWriter writer, long vocabulary)
    {
        if (Tokens.Length > vocabulary)
            throw new UserErrorException($"the tokenizer has {Tokens.Length} tokens, the model's embedding {vocabulary} rows; they do not belong together");
        const int Normal = 1, Unused = 5;
        const float UnusedScore = -10000;
        int missing = (int)vocabulary - Tokens.Length;
        writer.Add("tokenizer.ggml.model", Model);
        if (Pre is not null)
            writer.Add("tokenizer.ggml.pre", Pre);
        writer.Add("tokenizer.ggml.tokens", (IReadOnlyCollection<string>)[.. Tokens, .. Enumerable.Range(Tokens.Length, missing).Select(i => $"[PAD{i}]")]);
        if (Scores is not null)
            writer.Add("tokenizer.ggml.scores", (ReadOnlySpan<float>)[.. Scores, .. Enumerable.Repeat(UnusedScore, missing)]);
        writer.Add("tokenizer.ggml.token_type", (ReadOnlySpan<int>)[.. TokenTypes ?? [.. Enumerable.Repeat(Normal, Tokens.Length)], .. Enumerable.Repeat(Unused, missing)]);
        if (Merges is not null)
            writer.Add("tokenizer.ggml.merges", Merges);
        foreach ((string key, int? id) in new[] { ("bos", BosId), ("eos", EosId), ("eot", EotId), ("padding", PadId), ("unknown", UnknownId), ("cls", ClsId), ("seperator", SepId) })
            if (id is { } given)
                writer.Add($"tokenizer.ggml.{key}_token_id", (uint)given);
        foreach ((string key, bool? flag) in new[] { ("bos_token", AddBos), ("eos_token", AddEos), ("space_prefix", AddSpacePrefix) })
            if (flag is { } given)
                writer.Add($"tokenizer.ggml.add_{key}", given);
        if (RemoveExtraWhitespaces is { } removes)
            writer.Add("tokenizer.ggml.remove_extra_whitespaces", removes);
        if (PrecompiledCharsMap is not null)
            writer.AddBytes("tokenizer.ggml.precompiled_charsmap", PrecompiledCharsMap);
        if (ChatTemplate is not null)
            writer.Add("tokenizer.chat_template", ChatTemplate);
    }

    /// <summary>tokenizer.ggml.NAME_token_id within [0, count); null where missing or −1 (also as unsigned), which says that there is none.</summary>
    internal static int? TokenId(GgufMetadata m, string name, long count)
    {
        string key = $"tokenizer.ggml.{name}_token_id";
        long? id = m.OptionalInteger(key);
        if (id is null or -1 or uint.MaxValue)
            return null;
        return id >= 0 && id < count ? (int)id : throw m.Bad(key, $"is {id}, the vocabulary has {count} tokens");
    }

    private static T[]? PerToken<T>(GgufMetadata m, string key, T[]? values, int count) =>
        values is null || values.Length == count ? values : throw m.Bad(key, $"holds {values.Length} values for {count} tokens");
}
