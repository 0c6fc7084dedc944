using System.Diagnostics.CodeAnalysis;
using Repeng.Kernels;

namespace Repeng.Runtime.Tokenizers;

/// <summary>Both ways between tokens and ids over a vocabulary and its added tokens.</summary>
internal sealed class TokenizerIds
{
    private readonly Vocabulary _vocabulary;
    private readonly Dictionary<string, AddedToken> _addedByText = [];
    private readonly Dictionary<int, AddedToken> _addedById = [];
    private readonly int _firstAdded = int.MaxValue;
    private readonly int _lastAdded = -1;

    /// <exception cref="UserErrorException">An added token's id is out of range, or is another token's.</exception>
    public TokenizerIds(Vocabulary vocabulary, IReadOnlyList<AddedToken> added)
    {
        _vocabulary = vocabulary;
        End = vocabulary.IdEnd;
        foreach (AddedToken token in added)
        {
            if ((uint)token.Id >= Vocabulary.IdLimit)
                throw vocabulary.Error($"the added token {Quoted(token)} has the id {token.Id}; ids must lie between 0 and {Vocabulary.IdLimit - 1}");
            if (vocabulary.TryGetId(token.Content, out int id) && id != token.Id)
                throw vocabulary.Error($"the added token {Quoted(token)} has the id {token.Id}, but the vocabulary gives it {id}");
            if (vocabulary.TryGetToken(token.Id, out string? other) && other != token.Content)
                throw vocabulary.Error($"the added token {Quoted(token)} has the id {token.Id}, which is the vocabulary's {JsonSection.Quote(other)}");
            if (_addedById.TryGetValue(token.Id, out AddedToken? same) && same.Content != token.Content)
                throw vocabulary.Error($"the added tokens {JsonSection.Quote(same.Content)} and {Quoted(token)} have the same id {token.Id}");
            if (_addedByText.TryGetValue(token.Content, out same) && same.Id != token.Id)
                throw vocabulary.Error($"the added token {Quoted(token)} occurs with the ids {same.Id} and {token.Id}");
            // A repetition with other flags replaces the earlier one.
            _addedByText[token.Content] = token;
            _addedById[token.Id] = token;
            _firstAdded = Math.Min(_firstAdded, token.Id);
            _lastAdded = Math.Max(_lastAdded, token.Id);
            End = Math.Max(End, token.Id + 1);
        }
    }

    private static string Quoted(AddedToken token) => JsonSection.Quote(token.Content);

    /// <summary>The highest id plus one.</summary>
    public int End { get; }

    /// <summary>The added tokens, each once.</summary>
    public IEnumerable<AddedToken> Added => _addedById.Values;

    public bool TryGetId(string token, out int id)
    {
        if (_addedByText.TryGetValue(token, out AddedToken? added))
        {
            id = added.Id;
            return true;
        }
        return _vocabulary.TryGetId(token, out id);
    }

    public bool TryGetToken(int id, [NotNullWhen(true)] out string? token)
    {
        if (!_addedById.TryGetValue(id, out AddedToken? added))
            return _vocabulary.TryGetToken(id, out token);
        token = added.Content;
        return true;
    }

    /// <summary>An added token's text as UTF-8; empty for other ids.</summary>
    public ReadOnlySpan<byte> AddedUtf8(int id, out bool special)
    {
        special = false;
        if (id > _lastAdded || id < _firstAdded || !_addedById.TryGetValue(id, out AddedToken? added))
            return default;
        special = added.Special;
        return added.Utf8;
    }

    public bool IsSpecial(int id) => _addedById.TryGetValue(id, out AddedToken? added) && added.Special;
}
