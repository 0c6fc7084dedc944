using System.Diagnostics.CodeAnalysis;
using Repeng.Kernels;

namespace Repeng.Runtime.Tokenizers;

/// <summary>The tokens of a model with their ids: each token has one id, each id at most one token, ids may have gaps.</summary>
internal sealed class Vocabulary
{
    /// <summary>
    /// Ids must lie below this number: the largest vocabularies have a quarter of a million tokens, and an id far
    /// above would make a damaged file reserve memory for ids that nothing uses.
    /// </summary>
    public const int IdLimit = 1 << 22;

    private readonly string _file;
    private readonly Dictionary<string, int> _ids;
    private readonly Dictionary<string, int>.AlternateLookup<ReadOnlySpan<char>> _spans;
    private string?[] _tokens;

    public Vocabulary(string file, int expected)
    {
        _file = file;
        _ids = new Dictionary<string, int>(expected, StringComparer.Ordinal);
        _spans = _ids.GetAlternateLookup<ReadOnlySpan<char>>();
        _tokens = new string?[Math.Max(16, expected)];
    }

    /// <summary>An error about the file that the vocabulary comes from.</summary>
    public UserErrorException Error(string message) => new($"{_file}: {message}");

    public int Count => _ids.Count;

    /// <summary>The highest id plus one.</summary>
    public int IdEnd { get; private set; }

    /// <summary>Every token once.</summary>
    public IEnumerable<(string Token, int Id)> Entries => _ids.Select(p => (p.Key, p.Value));

    /// <exception cref="UserErrorException">The id is out of range, or the token or the id is there already.</exception>
    public void Add(string token, int id)
    {
        if ((uint)id >= IdLimit)
            throw Error($"token {JsonSection.Quote(token)} has the id {id}; ids must lie between 0 and {IdLimit - 1}");
        if (!_ids.TryAdd(token, id))
            throw Error($"token {JsonSection.Quote(token)} occurs twice, with the ids {_ids[token]} and {id}");
        if (id >= _tokens.Length)
            Array.Resize(ref _tokens, Math.Max(id + 1, Math.Min(IdLimit, _tokens.Length * 2)));
        if (_tokens[id] is { } other)
            throw Error($"the tokens {JsonSection.Quote(other)} and {JsonSection.Quote(token)} have the same id {id}");
        _tokens[id] = token;
        IdEnd = Math.Max(IdEnd, id + 1);
    }

    /// <summary>The same for vocabularies in which a token may stand again: text has its last id, every id its text.</summary>
    /// <exception cref="UserErrorException">The id is out of range, or is there already.</exception>
    public void AddOrReplace(string token, int id)
    {
        _ids.Remove(token);
        Add(token, id);
    }

    public bool TryGetId(ReadOnlySpan<char> token, out int id) => _spans.TryGetValue(token, out id);

    public bool TryGetToken(int id, [NotNullWhen(true)] out string? token)
    {
        token = (uint)id < (uint)_tokens.Length ? _tokens[id] : null;
        return token is not null;
    }
}
