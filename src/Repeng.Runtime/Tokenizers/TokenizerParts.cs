namespace Repeng.Runtime.Tokenizers;

/// <summary>Everything that a tokenizer is made of, wherever it was read from.</summary>
internal sealed record TokenizerParts
{
    /// <summary>The file, for error messages.</summary>
    public required string File { get; init; }

    public required Vocabulary Vocabulary { get; init; }

    public required TokenizerModel Model { get; init; }

    public IReadOnlyList<AddedToken> AddedTokens { get; init; } = [];

    public Normalizer? Normalizer { get; init; }

    public IReadOnlyList<PreTokenizer> PreTokenizers { get; init; } = [];

    /// <summary>Ids that encoding with special tokens puts in front.</summary>
    public IReadOnlyList<int> Prefix { get; init; } = [];

    /// <summary>Ids that encoding with special tokens puts at the end.</summary>
    public IReadOnlyList<int> Suffix { get; init; } = [];

    /// <summary>Null: decoding joins the tokens by spaces.</summary>
    public IReadOnlyList<TokenDecoder>? Decoders { get; init; }
}

/// <summary>What the configuration beside the tokenizer says.</summary>
internal sealed record TokenizerSettings
{
    /// <summary>Texts by the names that chat templates use: bos_token, eos_token, pad_token, unk_token …</summary>
    public IReadOnlyDictionary<string, string> SpecialTokenTexts { get; init; } = new Dictionary<string, string>();

    /// <summary>Chat templates by name; the one that is used by itself is called <c>default</c>.</summary>
    public IReadOnlyDictionary<string, string> ChatTemplates { get; init; } = new Dictionary<string, string>();
}
