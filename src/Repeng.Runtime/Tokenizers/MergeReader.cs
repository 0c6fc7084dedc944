using System.Runtime.CompilerServices;
using System.Text;

namespace Repeng.Runtime.Tokenizers;

/// <summary>Takes merges as two texts, in the order of their ranks, and fills a <see cref="MergeTable"/> with their ids.</summary>
internal ref struct MergeReader(Vocabulary vocabulary, int expected, int prefixBytes)
{
    private readonly Vocabulary _vocabulary = vocabulary;
    private readonly int _prefixBytes = prefixBytes;
    private byte[] _text = new byte[256];
    private int _leftBytes = 0;

    // Merges usually stand in the order of the tokens that they make, all that make the same token together.
    private int _likely = 0;

    public MergeTable Table { get; } = new(expected);

    /// <summary>How many merges were taken; the rank of the next one.</summary>
    public int Count { get; private set; } = 0;

    /// <summary>A merge as one text, "left right"; returns what is wrong with it, or null.</summary>
    public string? AddPair(ReadOnlySpan<byte> pair)
    {
        int space = pair.IndexOf((byte)' ');
        if (space < 0 || pair[(space + 1)..].Contains((byte)' '))
            return $"{Quote(pair)} must be two tokens with one space between them";
        SetLeft(pair[..space]);
        return AddRight(pair[(space + 1)..]);
    }

    public void SetLeft(ReadOnlySpan<byte> left)
    {
        Reserve(left.Length);
        left.CopyTo(_text);
        _leftBytes = left.Length;
    }

    /// <summary>The other token of the merge; returns what is wrong with the merge, or null.</summary>
    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    public string? AddRight(ReadOnlySpan<byte> right)
    {
        Reserve(_leftBytes + right.Length);
        if (!_vocabulary.TryGetId(_text.AsSpan(0, _leftBytes), out int left))
            return Missing(_text.AsSpan(0, _leftBytes));
        if (!_vocabulary.TryGetId(right, out int rightId))
            return Missing(right);
        right = right[Math.Min(_prefixBytes, right.Length)..];
        right.CopyTo(_text.AsSpan(_leftBytes));
        ReadOnlySpan<byte> whole = _text.AsSpan(0, _leftBytes + right.Length);
        int merged = _likely;
        bool guessed = whole.Length > 0 && (_vocabulary.Utf8Of(merged).SequenceEqual(whole) || _vocabulary.Utf8Of(++merged).SequenceEqual(whole));
        if (!guessed && !_vocabulary.TryGetId(whole, out merged))
            return Missing(whole);
        _likely = merged;
        if (Count >= MergeTable.Most)
            return $"there are more than {MergeTable.Most} merges";
        Table.Add(left, rightId, Count++, merged);
        return null;
    }

    private void Reserve(int bytes)
    {
        if (bytes > _text.Length)
            Array.Resize(ref _text, Math.Max(bytes, _text.Length * 2));
    }

    private static string Missing(ReadOnlySpan<byte> token) => $"the token {Quote(token)} is not in the vocabulary";

    private static string Quote(ReadOnlySpan<byte> text) => JsonSection.Quote(Encoding.UTF8.GetString(text));
}
