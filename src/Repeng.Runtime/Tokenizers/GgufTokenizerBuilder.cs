using Repeng.Kernels;
using Repeng.Runtime.Formats;

namespace Repeng.Runtime.Tokenizers;

/// <summary>
/// Rebuilds a tokenizer from GGUF metadata. The file names its pre-tokenizer only; each known name is written out
/// in <see cref="GgufPreTokenizer"/>.
/// </summary>
internal sealed class GgufTokenizerBuilder(GgufTokenizer data, string source)
{
    // The name is misspelt in the format.
    private const string SepKey = "seperator_token_id";

    /// <summary>In bytes. SentencePiece trains none longer than 512 characters; all cuts of a token are tried, so time grows with the square of its length.</summary>
    private const int LongestCutToken = 1024;

    internal const int Normal = 1, Unknown = 2, Control = 3, UserDefined = 4, Unused = 5, Byte = 6;

    /// <exception cref="UserErrorException">The metadata is incomplete or contradicts itself, or its kind of tokenizer is not known.</exception>
    public TokenizerParts BuildParts()
    {
        CheckLength("scores", data.Scores?.Length);
        CheckLength("token_type", data.TokenTypes?.Length);
        if (data.Tokens.Length > Vocabulary.IdLimit)
            throw Error($"tokenizer.ggml.tokens has {data.Tokens.Length} tokens; at most {Vocabulary.IdLimit} are supported");
        var vocabulary = new Vocabulary(source, data.Tokens.Count(t => t.Length > 0));
        for (int id = 0; id < data.Tokens.Length; id++)
        {
            // An empty text is a place that no token fills.
            if (data.Tokens[id].Length > 0)
                vocabulary.Add(data.Tokens[id], id);
        }
        foreach ((string key, int? id) in SpecialIds())
            if (id is { } given && (uint)given >= data.Tokens.Length)
                throw Error($"tokenizer.ggml.{key} is {given}, but there are {data.Tokens.Length} tokens");

        List<AddedToken> added = [];
        for (int id = 0; id < data.Tokens.Length; id++)
        {
            int type = TypeOf(id);
            bool special = type is Unknown or Control;
            if (data.Tokens[id].Length > 0 && (special || type == UserDefined))
                added.Add(new AddedToken(id, data.Tokens[id], false, false, false, Normalized: false, Special: special));
        }
        TokenizerParts parts = data.Model switch
        {
            "gpt2" => BuildByteLevel(vocabulary),
            "llama" => BuildSentencePiece(vocabulary),
            "t5" => BuildUnigram(vocabulary),
            "bert" => BuildWordPiece(vocabulary),
            _ => throw Error($"tokenizer.ggml.model {JsonSection.Quote(data.Model)} is not supported; supported are gpt2, llama, t5, bert"),
        };
        return parts with { AddedTokens = added };
    }

    public TokenizerSettings BuildSettings()
    {
        Dictionary<string, string> texts = [];
        foreach ((string key, int? id) in SpecialIds())
            if (id is { } given)
                texts[TextName(key)] = data.Tokens[given];
        Dictionary<string, string> templates = [];
        if (data.ChatTemplate is not null)
            templates[TokenizerSettingsFile.DefaultTemplate] = data.ChatTemplate;
        return new TokenizerSettings { SpecialTokenTexts = texts, ChatTemplates = templates };
    }

    private IEnumerable<(string Key, int? Id)> SpecialIds() =>
    [
        ("bos_token_id", data.BosId), ("eos_token_id", data.EosId), ("padding_token_id", data.PadId), ("unknown_token_id", data.UnknownId),
        ("cls_token_id", data.ClsId), (SepKey, data.SepId),
    ];

    /// <summary>What tokenizer_config.json, and so chat templates, call the token of a key.</summary>
    private static string TextName(string key) => key switch
    {
        "padding_token_id" => "pad_token",
        "unknown_token_id" => "unk_token",
        SepKey => "sep_token",
        _ => key[..^"_id".Length],
    };

    private UserErrorException Error(string message) => new($"{source}: {message}");

    private int TypeOf(int id) => data.TokenTypes is { } types ? types[id] : 1;

    private void CheckLength(string key, int? count)
    {
        if (count is { } given && given != data.Tokens.Length)
            throw Error($"tokenizer.ggml.{key} has {given} values for {data.Tokens.Length} tokens");
    }

    private int[] OneId(bool wanted, int? id, string key)
    {
        if (!wanted)
            return [];
        return id is { } given ? [given] : throw Error($"texts are to have the {TextName(key)[..^"_token".Length]} token, but tokenizer.ggml.{key} is missing");
    }

    private TokenizerParts BuildByteLevel(Vocabulary vocabulary)
    {
        string known = string.Join(", ", GgufPreTokenizer.Names);
        if (data.Pre is null)
            throw Error($"tokenizer.ggml.pre is missing, which says how text is split; known are {known}. Convert the model anew");
        GgufPreTokenizer family = GgufPreTokenizer.Find(data.Pre) ?? throw Error($"tokenizer.ggml.pre {JsonSection.Quote(data.Pre)} is not supported; known are {known}");
        if (data.Merges is null)
            throw Error("tokenizer.ggml.merges is missing");
        var options = new BpeOptions { IgnoreMerges = family.IgnoreMerges };
        return new TokenizerParts
        {
            File = source,
            Vocabulary = vocabulary,
            Model = new BpeModel(vocabulary, ReadMerges(vocabulary), options, source),
            Normalizer = family.ComposesUnicode ? new FormNormalizer(System.Text.NormalizationForm.FormC) : null,
            PreTokenizers = family.Steps(source),
            Prefix = OneId(data.AddBos ?? family.AddBos, data.BosId, "bos_token_id"),
            Suffix = OneId(data.AddEos ?? false, data.EosId, "eos_token_id"),
            Decoders = [new ByteLevelDecoder()],
        };
    }

    private MergeTable ReadMerges(Vocabulary vocabulary)
    {
        var reader = new MergeReader(vocabulary, data.Merges!.Length, prefixBytes: 0);
        byte[] utf8 = new byte[256];
        foreach (string merge in data.Merges)
        {
            if (utf8.Length < merge.Length * 3)
                utf8 = new byte[merge.Length * 3];
            if (reader.AddPair(utf8.AsSpan(0, System.Text.Encoding.UTF8.GetBytes(merge, utf8))) is { } fault)
                throw Error($"tokenizer.ggml.merges[{reader.Count}]: {fault}");
        }
        return reader.Table;
    }

    private const string Space = "\u2581";

    /// <summary>The scores, all of them finite.</summary>
    private float[] Scores()
    {
        float[] scores = data.Scores ?? throw Error("tokenizer.ggml.scores is missing");
        int bad = Array.FindIndex(scores, s => !float.IsFinite(s));
        return bad < 0 ? scores : throw Error($"tokenizer.ggml.scores[{bad}] is {scores[bad]}; scores must be finite numbers");
    }

    /// <summary>As T5's tokenizer.json has it: compiled replacements, runs of blanks as one, Metaspace, Unigram.</summary>
    private TokenizerParts BuildUnigram(Vocabulary vocabulary)
    {
        double[] scores = [.. Scores().Select(s => (double)s)];
        List<Normalizer> normalizers = [];
        if (data.PrecompiledCharsMap is { Length: > 0 } map)
            normalizers.Add(new PrecompiledNormalizer(map, $"{source}: tokenizer.ggml.precompiled_charsmap"));
        if (data.RemoveExtraWhitespaces ?? false)
        {
            normalizers.Add(new StripNormalizer(true, true));
            normalizers.Add(new ReplaceNormalizer(TextPattern.OfRegex(" {2,}", source), " "));
        }
        string scheme = data.AddSpacePrefix ?? true ? "always" : "never";
        bool hasBytes = data.TokenTypes?.Contains(Byte) ?? false;
        return new TokenizerParts
        {
            File = source,
            Vocabulary = vocabulary,
            Model = new UnigramModel(vocabulary, scores, data.UnknownId, hasBytes, source, id => TypeOf(id) == Normal),
            Normalizer = normalizers.Count == 0 ? null : new SequenceNormalizer(normalizers),
            PreTokenizers = [new MetaspaceSplit(Space, scheme, split: true)],
            Prefix = OneId(data.AddBos ?? false, data.BosId, "bos_token_id"),
            Suffix = OneId(data.AddEos ?? true, data.EosId, "eos_token_id"),
            Decoders = hasBytes ? [new ByteFallbackDecoder(), new MetaspaceDecoder(Space, scheme != "never")] : [new MetaspaceDecoder(Space, scheme != "never")],
        };
    }

    /// <summary>BERT without case: tokens that begin a word have U+2581 in front, those that go on with it nothing.</summary>
    private TokenizerParts BuildWordPiece(Vocabulary vocabulary)
    {
        var options = new WordPieceOptions { BeginningPrefix = Space, ContinuingPrefix = "", Unknown = data.UnknownId is { } unknown ? data.Tokens[unknown] : "[UNK]" };
        return new TokenizerParts
        {
            File = source,
            Vocabulary = vocabulary,
            Model = new WordPieceModel(vocabulary, options, source),
            Normalizer = new BertNormalizer(cleanText: true, spacesIdeographs: true, stripAccents: true, lowercase: true),
            PreTokenizers = PreTokenizer.Bert(),
            Prefix = OneId(data.AddBos ?? true, data.ClsId ?? data.BosId, "cls_token_id"),
            Suffix = OneId(data.AddEos ?? true, data.SepId ?? data.EosId, SepKey),
            Decoders = [new MetaspaceDecoder(Space, prepended: true)],
        };
    }

    private TokenizerParts BuildSentencePiece(Vocabulary vocabulary)
    {
        float[] scores = Scores();
        bool prefix = data.AddSpacePrefix ?? true;
        var options = new BpeOptions
        {
            Unknown = data.UnknownId is { } unknown ? data.Tokens[unknown] : null,
            FuseUnknown = true,
            ByteFallback = true,
        };
        Normalizer spaces = new ReplaceNormalizer(TextPattern.OfText(" "), Space);
        List<TokenDecoder> decoders = [new ReplaceDecoder(TextPattern.OfText(Space), " "), new ByteFallbackDecoder(), new FuseDecoder()];
        if (prefix)
            decoders.Add(new StripDecoder(" ", 1, 0));
        return new TokenizerParts
        {
            File = source,
            Vocabulary = vocabulary,
            Model = new BpeModel(vocabulary, MergesByScore(vocabulary, scores), options, source),
            Normalizer = prefix ? new SequenceNormalizer([new PrependNormalizer(Space), spaces]) : spaces,
            Prefix = OneId(data.AddBos ?? true, data.BosId, "bos_token_id"),
            Suffix = OneId(data.AddEos ?? false, data.EosId, "eos_token_id"),
            Decoders = decoders,
        };
    }

    /// <summary>
    /// SentencePiece merges any two neighbours whose text together is a token, the highest score first. So every way to
    /// cut a token into two tokens is a merge, with the token's place by score as its rank.
    /// </summary>
    private MergeTable MergesByScore(Vocabulary vocabulary, float[] scores)
    {
        var merges = new MergeTable(2 * data.Tokens.Length);
        int[] byScore = new int[data.Tokens.Length];
        for (int id = 0; id < byScore.Length; id++)
            byScore[id] = id;
        float[] keys = [.. scores.Select(s => -s)];
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
            if (TypeOf(merged) is Unknown or Control or Byte)
                continue;
            ReadOnlySpan<byte> token = vocabulary.Utf8Of(merged);
            if (token.Length > LongestCutToken)
                throw Error($"tokenizer.ggml.tokens[{merged}] has {token.Length} bytes; of a SentencePiece vocabulary tokens of at most {LongestCutToken} are supported");
            for (int cut = 1; cut < token.Length; cut++)
            {
                // Within a character.
                if ((token[cut] & 0xC0) == 0x80)
                    continue;
                if (vocabulary.TryGetId(token[..cut], out int left) && IsText(left)
                    && vocabulary.TryGetId(token[cut..], out int right) && IsText(right))
                {
                    if (merges.Count >= MergeTable.Most)
                        throw Error($"its tokens can be cut into more than {MergeTable.Most} pairs of tokens");
                    merges.Add(left, right, rank, merged);
                }
            }
        }
        return merges;

        bool IsText(int id) => TypeOf(id) is not (Unknown or Control or Byte);
    }
}
