using System.Buffers;

namespace Repeng.Runtime.Tokenizers;

/// <summary>A token that is cut out of the text before anything else happens to it.</summary>
/// <param name="SingleWord">Only where no word character touches it.</param>
/// <param name="LeftStrip">Swallows the white space before it.</param>
/// <param name="RightStrip">Swallows the white space after it.</param>
/// <param name="Normalized">Looked for, normalized itself, in the normalized text instead of the raw one.</param>
/// <param name="Special">Left out when decoding skips special tokens.</param>
internal sealed record AddedToken(
    int Id, string Content, bool SingleWord, bool LeftStrip, bool RightStrip, bool Normalized, bool Special)
{
    private byte[]? _utf8;

    /// <summary>The text as UTF-8.</summary>
    public byte[] Utf8 => _utf8 ??= System.Text.Encoding.UTF8.GetBytes(Content);
}

/// <summary>Finds added tokens in a text: leftmost first, of those that begin there the longest, without overlaps.</summary>
internal sealed class AddedTokenFinder
{
    private readonly CharTrie _texts = new(64);
    private readonly AddedToken[] _tokens;
    private readonly SearchValues<char> _firsts;

    /// <param name="tokens">The tokens with the texts to look for; of equal texts the first counts.</param>
    public AddedTokenFinder(IEnumerable<(string Text, AddedToken Token)> tokens)
    {
        HashSet<char> firsts = [];
        List<AddedToken> kept = [];
        foreach ((string text, AddedToken token) in tokens)
        {
            if (text.Length == 0 || !_texts.TryAdd(text, kept.Count))
                continue;
            firsts.Add(text[0]);
            kept.Add(token);
        }
        _tokens = [.. kept];
        _firsts = SearchValues.Create([.. firsts]);
    }

    public bool IsEmpty => _tokens.Length == 0;

    /// <summary>
    /// The next token at or after <paramref name="from"/>; <paramref name="searched"/> is where the search goes on,
    /// <paramref name="start"/> and <paramref name="end"/> include the white space that the token swallows.
    /// </summary>
    /// <param name="taken">Where the part of the text ends that earlier tokens took; this one does not reach back over it.</param>
    public AddedToken? Find(ReadOnlySpan<char> text, int from, int taken, out int start, out int end, out int searched)
    {
        searched = from;
        while (NextMatch(text, searched, out start, out end) is { } token)
        {
            searched = end;
            if (token.SingleWord && TouchesWord(text, start, end))
                continue;
            if (token.LeftStrip)
            {
                while (start > taken && char.IsWhiteSpace(text[start - 1]))
                    start--;
                start = Math.Max(start, taken);
            }
            if (token.RightStrip)
            {
                while (end < text.Length && char.IsWhiteSpace(text[end]))
                    end++;
            }
            return token;
        }
        return null;
    }

    private AddedToken? NextMatch(ReadOnlySpan<char> text, int from, out int start, out int end)
    {
        for (start = IsEmpty ? text.Length : from; start < text.Length; start++)
        {
            int offset = text[start..].IndexOfAny(_firsts);
            if (offset < 0)
                break;
            start += offset;
            AddedToken? longest = null;
            end = start;
            int node = CharTrie.Root;
            for (int i = start; i < text.Length && (node = _texts.Next(node, text[i])) >= 0; i++)
            {
                if (_texts.ValueAt(node) is var token && token < 0)
                    continue;
                longest = _tokens[token];
                end = i + 1;
            }
            if (longest is not null)
                return longest;
        }
        start = end = -1;
        return null;
    }

    private static bool TouchesWord(ReadOnlySpan<char> text, int start, int end) =>
        start > 0 && CodePoints.IsWord(CodePoints.Before(text, start, out _))
        || end < text.Length && CodePoints.IsWord(CodePoints.At(text, end, out _));
}
