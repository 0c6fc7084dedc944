using Repeng.Kernels;

namespace Repeng.Runtime.Tokenizers;

/// <summary>How a <see cref="WordPieceModel"/> marks its tokens.</summary>
internal sealed record WordPieceOptions
{
    /// <summary>The token for a word that cannot be put together.</summary>
    public string Unknown { get; init; } = "[UNK]";

    /// <summary>In front of tokens that begin a word: nothing in tokenizer.json, U+2581 in GGUF.</summary>
    public string BeginningPrefix { get; init; } = "";

    /// <summary>In front of tokens that go on with a word: "##" in BERT, nothing in GGUF.</summary>
    public string ContinuingPrefix { get; init; } = "##";

    /// <summary>Words of more code points are unknown.</summary>
    public int LongestWord { get; init; } = 100;
}

/// <summary>
/// BERT's pieces of words: from the left always the longest token that fits; a word that does not come out even is one
/// unknown token.
/// </summary>
internal sealed class WordPieceModel : TokenizerModel
{
    private readonly WordPieceOptions _options;
    private readonly CharTrie _beginning;
    private readonly CharTrie _continuing;
    private readonly int _unknown = -1;
    private readonly string _file;

    public WordPieceModel(Vocabulary vocabulary, WordPieceOptions options, string file)
    {
        _options = options;
        _file = file;
        if (vocabulary.TryGetId(options.Unknown, out int unknown))
            _unknown = unknown;
        _beginning = Trie(vocabulary, options.BeginningPrefix);
        _continuing = options.ContinuingPrefix == options.BeginningPrefix ? _beginning : Trie(vocabulary, options.ContinuingPrefix);
    }

    /// <exception cref="UserErrorException">A word is unknown and the vocabulary lacks the unknown token.</exception>
    public override void Encode(ReadOnlySpan<char> piece, ModelScratch scratch, List<int> output)
    {
        int before = output.Count;
        if (CodePoints.Count(piece) <= _options.LongestWord && TryPieces(piece, output))
            return;
        output.RemoveRange(before, output.Count - before);
        output.Add(_unknown >= 0 ? _unknown
            : throw new UserErrorException($"{_file}: the word {JsonSection.Quote(piece)} cannot be put together from the vocabulary, which lacks the unknown token {JsonSection.Quote(_options.Unknown)}"));
    }

    private bool TryPieces(ReadOnlySpan<char> piece, List<int> output)
    {
        for (int start = 0; start < piece.Length;)
        {
            CharTrie trie = start == 0 ? _beginning : _continuing;
            int node = CharTrie.Root, id = -1, end = start;
            for (int i = start; i < piece.Length && (node = trie.Next(node, piece[i])) >= 0; i++)
            {
                if (trie.ValueAt(node) is >= 0 and int found)
                    (id, end) = (found, i + 1);
            }
            if (id < 0)
                return false;
            output.Add(id);
            start = end;
        }
        return true;
    }

    /// <summary>The tokens that begin with a prefix, without it.</summary>
    private static CharTrie Trie(Vocabulary vocabulary, string prefix)
    {
        var trie = new CharTrie(vocabulary.Count * 4);
        foreach ((string token, int id) in vocabulary.Entries)
            if (token.Length > prefix.Length && token.StartsWith(prefix, StringComparison.Ordinal))
                trie.Add(token.AsSpan(prefix.Length), id);
        return trie;
    }
}
