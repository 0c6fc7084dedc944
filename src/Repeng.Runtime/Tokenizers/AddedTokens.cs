using System.Buffers;

namespace Repeng.Runtime.Tokenizers;

/// <summary>A token that is cut out of the text before anything else happens to it.</summary>
/// <param name="SingleWord">Only where no word character touches it.</param>
/// <param name="LeftStrip">Swallows the white space before it.</param>
/// <param name="RightStrip">Swallows the white space after it.</param>
/// <param name="Normalized">Looked for, normalized itself, in the normalized text instead of the raw one.</param>
/// <param name="Special">Left out when decoding skips special tokens.</param>
internal sealed record AddedToken(
    int Id, string Content, bool SingleWord, bool LeftStrip, bool RightStrip, bool Normalized, bool Special);

/// <summary>Finds added tokens in a text: leftmost first, of those that begin there the longest, without overlaps.</summary>
internal sealed class AddedTokenFinder
{
    private readonly Dictionary<(int Node, char Next), int> _edges = [];
    private readonly List<AddedToken?> _ends = [null];
    private readonly SearchValues<char> _firsts;

    /// <param name="tokens">The tokens with the texts to look for; of equal texts the first counts.</param>
    public AddedTokenFinder(IEnumerable<(string Text, AddedToken Token)> tokens)
    {
        HashSet<char> firsts = [];
        foreach ((string text, AddedToken token) in tokens)
        {
            if (text.Length == 0)
                continue;
            firsts.Add(text[0]);
            int node = 0;
            foreach (char c in text)
            {
                if (!_edges.TryGetValue((node, c), out int next))
                {
                    next = _ends.Count;
                    _ends.Add(null);
                    _edges.Add((node, c), next);
                }
                node = next;
            }
            _ends[node] ??= token;
        }
        _firsts = SearchValues.Create([.. firsts]);
    }

    public bool IsEmpty => _edges.Count == 0;

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
        for (start = from; start < text.Length; start++)
        {
            int offset = text[start..].IndexOfAny(_firsts);
            if (offset < 0)
                break;
            start += offset;
            AddedToken? longest = null;
            end = start;
            int node = 0;
            for (int i = start; i < text.Length && _edges.TryGetValue((node, text[i]), out node); i++)
            {
                if (_ends[node] is not { } token)
                    continue;
                longest = token;
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
