using Repeng.Kernels;

namespace Repeng.Runtime.Tokenizers;

/// <summary>The values of a GGUF file's <c>tokenizer.*</c> keys, as they stand there. Ids are positions in <see cref="Tokens"/>.</summary>
public sealed record GgufTokenizerData
{
    /// <summary>The file, for error messages.</summary>
    public required string Source { get; init; }

    /// <summary><c>tokenizer.ggml.model</c>: "gpt2" (byte-level BPE) or "llama" (SentencePiece BPE).</summary>
    public required string Model { get; init; }

    /// <summary><c>tokenizer.ggml.pre</c>: the name of the pre-tokenizer; needed for "gpt2".</summary>
    public string? PreTokenizer { get; init; }

    /// <summary><c>tokenizer.ggml.tokens</c>.</summary>
    public required IReadOnlyList<string> Tokens { get; init; }

    /// <summary><c>tokenizer.ggml.merges</c>, "a b" each, the first one ranks highest; needed for "gpt2".</summary>
    public IReadOnlyList<string>? Merges { get; init; }

    /// <summary><c>tokenizer.ggml.scores</c>, one per token, the highest merges first; needed for "llama".</summary>
    public IReadOnlyList<float>? Scores { get; init; }

    /// <summary><c>tokenizer.ggml.token_type</c>, one per token: 1 normal, 2 unknown, 3 control, 4 user-defined, 5 unused, 6 byte.</summary>
    public IReadOnlyList<int>? TokenTypes { get; init; }

    /// <summary><c>tokenizer.ggml.bos_token_id</c>.</summary>
    public int? BosId { get; init; }

    /// <summary><c>tokenizer.ggml.eos_token_id</c>.</summary>
    public int? EosId { get; init; }

    /// <summary><c>tokenizer.ggml.padding_token_id</c>.</summary>
    public int? PadId { get; init; }

    /// <summary><c>tokenizer.ggml.unknown_token_id</c>.</summary>
    public int? UnkId { get; init; }

    /// <summary><c>tokenizer.ggml.add_bos_token</c>; absent: what the kind of tokenizer usually does.</summary>
    public bool? AddBos { get; init; }

    /// <summary><c>tokenizer.ggml.add_eos_token</c>; absent: no.</summary>
    public bool? AddEos { get; init; }

    /// <summary><c>tokenizer.ggml.add_space_prefix</c>, for "llama"; absent: yes.</summary>
    public bool? AddSpacePrefix { get; init; }

    /// <summary><c>tokenizer.chat_template</c>.</summary>
    public string? ChatTemplate { get; init; }
}

/// <summary>
/// Rebuilds a tokenizer from GGUF metadata. The file names its pre-tokenizer only; each known name is written out
/// here as the original tokenizer.json of that family has it.
/// </summary>
internal static class GgufTokenizer
{
    private const int Unknown = 2, Control = 3, UserDefined = 4, Byte = 6;

    private const string Contractions = "(?i:'s|'t|'re|'ve|'m|'ll|'d)";
    private const string WordsAndRest = @"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{DIGITS}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
    private const string CasedWords =
        @"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+TAIL"
        + @"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*TAIL"
        + @"|\p{N}{DIGITS}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";

    /// <summary>What a pre-tokenizer name stands for.</summary>
    private sealed record Family(
        string? Pattern = null, bool SingleDigits = false, bool ComposesUnicode = false, bool IgnoreMerges = false, bool AddBos = false);

    private static readonly Family s_gpt2 = new();
    private static readonly Family s_digitsThenGpt2 = new(SingleDigits: true);
    private static readonly Family s_neox = new(ComposesUnicode: true);
    private static readonly Family s_cl100k = new(Contractions + "|" + WordsAndRest.Replace("{DIGITS}", "{1,3}", StringComparison.Ordinal));
    private static readonly Family s_llama3 = s_cl100k with { IgnoreMerges = true, AddBos = true };
    private static readonly Family s_qwen2 = new(
        Contractions + "|" + WordsAndRest.Replace("{DIGITS}", "", StringComparison.Ordinal), ComposesUnicode: true);
    private static readonly Family s_o200k = new(CasedWords
        .Replace("{DIGITS}", "{1,3}", StringComparison.Ordinal).Replace("TAIL", Contractions + "?", StringComparison.Ordinal));
    private static readonly Family s_tekken = new(CasedWords
        .Replace("{DIGITS}", "", StringComparison.Ordinal).Replace("TAIL", "", StringComparison.Ordinal), IgnoreMerges: true, AddBos: true);

    private static readonly SortedDictionary<string, Family> s_families = new(StringComparer.Ordinal)
    {
        ["gpt-2"] = s_gpt2,
        ["phi-2"] = s_gpt2,
        ["smollm"] = s_digitsThenGpt2,
        ["starcoder"] = s_digitsThenGpt2,
        ["refact"] = s_digitsThenGpt2,
        ["command-r"] = s_digitsThenGpt2 with { ComposesUnicode = true },
        ["olmo"] = s_neox,
        ["mpt"] = s_neox,
        ["dbrx"] = s_cl100k,
        ["smaug-bpe"] = s_cl100k,
        ["glm4"] = s_cl100k,
        ["chatglm-bpe"] = s_cl100k,
        ["llama-bpe"] = s_llama3,
        ["llama3"] = s_llama3,
        ["llama-v3"] = s_llama3,
        ["qwen2"] = s_qwen2,
        ["gpt-4o"] = s_o200k,
        ["llama4"] = s_o200k with { AddBos = true },
        ["tekken"] = s_tekken,
    };

    /// <exception cref="UserErrorException">The metadata is incomplete or contradicts itself, or its kind of tokenizer is not known.</exception>
    public static TokenizerParts BuildParts(GgufTokenizerData data)
    {
        CheckLength(data, "scores", data.Scores?.Count);
        CheckLength(data, "token_type", data.TokenTypes?.Count);
        var vocabulary = new Vocabulary(data.Source, data.Tokens.Count);
        for (int id = 0; id < data.Tokens.Count; id++)
            vocabulary.Add(data.Tokens[id], id);
        foreach ((string key, int? id) in SpecialIds(data))
            if (id is { } given && (uint)given >= data.Tokens.Count)
                throw Error(data, $"tokenizer.ggml.{key} is {given}, but there are {data.Tokens.Count} tokens");

        List<AddedToken> added = [];
        for (int id = 0; id < data.Tokens.Count; id++)
        {
            int type = TypeOf(data, id);
            bool special = type is Unknown or Control;
            if (data.Tokens[id].Length > 0 && (special || type == UserDefined))
                added.Add(new AddedToken(id, data.Tokens[id], false, false, false, Normalized: false, Special: special));
        }
        TokenizerParts parts = data.Model switch
        {
            "gpt2" => BuildByteLevel(data, vocabulary),
            "llama" => BuildSentencePiece(data, vocabulary),
            _ => throw Error(data, $"tokenizer.ggml.model {JsonSection.Quote(data.Model)} is not supported; supported are gpt2, llama"),
        };
        return parts with { AddedTokens = added };
    }

    public static TokenizerSettings BuildSettings(GgufTokenizerData data)
    {
        Dictionary<string, string> texts = [];
        foreach ((string key, int? id) in SpecialIds(data))
            if (id is { } given)
                texts[key switch { "bos_token_id" => "bos_token", "eos_token_id" => "eos_token", "padding_token_id" => "pad_token", _ => "unk_token" }] = data.Tokens[given];
        Dictionary<string, string> templates = [];
        if (data.ChatTemplate is not null)
            templates[TokenizerSettingsFile.DefaultTemplate] = data.ChatTemplate;
        return new TokenizerSettings { SpecialTokenTexts = texts, ChatTemplates = templates };
    }

    private static IEnumerable<(string Key, int? Id)> SpecialIds(GgufTokenizerData data) =>
        [("bos_token_id", data.BosId), ("eos_token_id", data.EosId), ("padding_token_id", data.PadId), ("unknown_token_id", data.UnkId)];

    private static UserErrorException Error(GgufTokenizerData data, string message) => new($"{data.Source}: {message}");

    private static int TypeOf(GgufTokenizerData data, int id) => data.TokenTypes is { } types ? types[id] : 1;

    private static void CheckLength(GgufTokenizerData data, string key, int? count)
    {
        if (count is { } given && given != data.Tokens.Count)
            throw Error(data, $"tokenizer.ggml.{key} has {given} values for {data.Tokens.Count} tokens");
    }

    private static int[] OneId(GgufTokenizerData data, bool wanted, int? id, string key)
    {
        if (!wanted)
            return [];
        return id is { } given ? [given] : throw Error(data, $"texts are to have the {key} token, but tokenizer.ggml.{key}_token_id is missing");
    }

    private static TokenizerParts BuildByteLevel(GgufTokenizerData data, Vocabulary vocabulary)
    {
        string known = string.Join(", ", s_families.Keys);
        if (data.PreTokenizer is null)
            throw Error(data, $"tokenizer.ggml.pre is missing, which says how text is split; known are {known}. Convert the model anew");
        if (!s_families.TryGetValue(data.PreTokenizer, out Family? family))
            throw Error(data, $"tokenizer.ggml.pre {JsonSection.Quote(data.PreTokenizer)} is not supported; known are {known}");
        if (data.Merges is null)
            throw Error(data, "tokenizer.ggml.merges is missing");

        List<PreTokenizer> steps = [];
        if (family.SingleDigits)
            steps.Add(new ClassSplit(CodePoints.IsNumeric, SplitBehavior.Isolated));
        if (family.Pattern is { } pattern)
            steps.Add(new PatternSplit(TextPattern.OfRegex(pattern, data.Source), SplitBehavior.Isolated, invert: false));
        steps.AddRange(ByteLevelSplit.Steps(addPrefixSpace: false, useRegex: family.Pattern is null));
        var options = new BpeOptions { IgnoreMerges = family.IgnoreMerges };
        return new TokenizerParts
        {
            File = data.Source,
            Vocabulary = vocabulary,
            Model = new BpeModel(vocabulary, new MergeTable(ReadMerges(data, vocabulary)), options, data.Source),
            Normalizer = family.ComposesUnicode ? new FormNormalizer(System.Text.NormalizationForm.FormC) : null,
            PreTokenizers = steps,
            Prefix = OneId(data, data.AddBos ?? family.AddBos, data.BosId, "bos"),
            Suffix = OneId(data, data.AddEos ?? false, data.EosId, "eos"),
            Decoders = [new ByteLevelDecoder()],
        };
    }

    private static List<(int, int, int, int)> ReadMerges(GgufTokenizerData data, Vocabulary vocabulary)
    {
        List<(int, int, int, int)> merges = new(data.Merges!.Count);
        for (int rank = 0; rank < data.Merges.Count; rank++)
        {
            string merge = data.Merges[rank];
            int space = merge.IndexOf(' ', StringComparison.Ordinal);
            if (space < 0 || merge.IndexOf(' ', space + 1) >= 0)
                throw Error(data, $"tokenizer.ggml.merges[{rank}] {JsonSection.Quote(merge)} must be two tokens with one space between them");
            ReadOnlySpan<char> left = merge.AsSpan(0, space);
            ReadOnlySpan<char> right = merge.AsSpan(space + 1);
            merges.Add((IdOf(left), IdOf(right), rank, IdOf(string.Concat(left, right))));

            int IdOf(ReadOnlySpan<char> token) => vocabulary.TryGetId(token, out int id) ? id
                : throw Error(data, $"tokenizer.ggml.merges[{rank}]: the token {JsonSection.Quote(token)} is not among the tokens");
        }
        return merges;
    }

    private static TokenizerParts BuildSentencePiece(GgufTokenizerData data, Vocabulary vocabulary)
    {
        const string space = "\u2581";
        if (data.Scores is null)
            throw Error(data, "tokenizer.ggml.scores is missing");
        bool prefix = data.AddSpacePrefix ?? true;
        var options = new BpeOptions
        {
            Unknown = data.UnkId is { } unknown ? data.Tokens[unknown] : null,
            FuseUnknown = true,
            ByteFallback = true,
        };
        Normalizer spaces = new ReplaceNormalizer(TextPattern.OfText(" "), space);
        List<TokenDecoder> decoders = [new ReplaceDecoder(TextPattern.OfText(space), " "), new ByteFallbackDecoder(), new FuseDecoder()];
        if (prefix)
            decoders.Add(new StripDecoder(" ", 1, 0));
        return new TokenizerParts
        {
            File = data.Source,
            Vocabulary = vocabulary,
            Model = new BpeModel(vocabulary, new MergeTable(MergesByScore(data, vocabulary)), options, data.Source),
            Normalizer = prefix ? new SequenceNormalizer([new PrependNormalizer(space), spaces]) : spaces,
            Prefix = OneId(data, data.AddBos ?? true, data.BosId, "bos"),
            Suffix = OneId(data, data.AddEos ?? false, data.EosId, "eos"),
            Decoders = decoders,
        };
    }

    /// <summary>
    /// SentencePiece merges any two neighbours whose text together is a token, the highest score first. So every way to
    /// cut a token into two tokens is a merge, with the token's place by score as its rank.
    /// </summary>
    private static List<(int, int, int, int)> MergesByScore(GgufTokenizerData data, Vocabulary vocabulary)
    {
        List<(int Left, int Right, int Rank, int Merged)> merges = [];
        int[] byScore = new int[data.Tokens.Count];
        for (int id = 0; id < byScore.Length; id++)
        {
            byScore[id] = id;
            if (!float.IsFinite(data.Scores![id]))
                throw Error(data, $"tokenizer.ggml.scores[{id}] is {data.Scores[id]}; scores must be finite numbers");
        }
        float[] keys = [.. data.Scores!.Select(s => -s)];
        Array.Sort(keys, byScore);
        int rank = -1;
        float last = float.NaN;
        for (int place = 0; place < byScore.Length; place++)
        {
            // Tokens of equal score have equal rank: then the leftmost pair merges first.
            if (keys[place] != last)
                rank++;
            last = keys[place];
            int merged = byScore[place];
            if (TypeOf(data, merged) is Unknown or Control or Byte)
                continue;
            ReadOnlySpan<char> token = data.Tokens[merged];
            for (int cut = 1; cut < token.Length; cut++)
            {
                if (vocabulary.TryGetId(token[..cut], out int left) && IsText(left)
                    && vocabulary.TryGetId(token[cut..], out int right) && IsText(right))
                    merges.Add((left, right, rank, merged));
            }
        }
        return merges;

        bool IsText(int id) => TypeOf(data, id) is not (Unknown or Control or Byte);
    }
}
