using System.Buffers.Binary;
using System.Globalization;
using System.Text;
using Repeng.Kernels;

namespace Repeng.Runtime.Tokenizers;

/// <summary>
/// The replacements that SentencePiece compiles into a model ("precompiled_charsmap"): the size of a trie as a little-endian
/// 32-bit number, the trie as a double array of 32-bit units (darts-clone), and the replacements, each ended by a zero byte.
/// </summary>
/// <remarks>
/// As the library behind tokenizer.json does it, which differs from SentencePiece's longest match: a grapheme cluster of
/// less than six bytes is looked up first, and replaced whole by what its shortest known beginning becomes; otherwise each
/// code point of it is looked up.
/// </remarks>
internal sealed class PrecompiledNormalizer : Normalizer
{
    private const int LongestCluster = 5;

    /// <summary>In bytes. The longest of Unicode's own has 33; without a bound a short text could become gigabytes.</summary>
    private const int LongestReplacement = 1024;

    private const int UnitBytes = 4;

    private readonly uint[] _units;
    private readonly byte[] _replacements;

    /// <summary>Of ASCII characters by themselves; null for one that stays.</summary>
    private readonly string?[] _ascii = new string?[128];

    /// <param name="charsMap">The bytes of the map.</param>
    /// <param name="place">File and place, for error messages.</param>
    /// <exception cref="UserErrorException">The sizes do not fit together, or a replacement is no UTF-8 or too long.</exception>
    public PrecompiledNormalizer(ReadOnlySpan<byte> charsMap, string place)
    {
        if (charsMap.Length < UnitBytes)
            throw new UserErrorException($"{place}: the character map has {charsMap.Length} bytes; it must begin with the size of its trie");
        uint trieBytes = BinaryPrimitives.ReadUInt32LittleEndian(charsMap);
        ReadOnlySpan<byte> rest = charsMap[UnitBytes..];
        if (trieBytes > rest.Length || trieBytes % UnitBytes != 0)
            throw new UserErrorException($"{place}: the character map says that its trie has {trieBytes} bytes, of {rest.Length} that follow; it must be a multiple of {UnitBytes} within them");
        _units = new uint[trieBytes / UnitBytes];
        for (int i = 0; i < _units.Length; i++)
            _units[i] = BinaryPrimitives.ReadUInt32LittleEndian(rest[(i * UnitBytes)..]);
        _replacements = rest[(int)trieBytes..].ToArray();
        if (!System.Text.Unicode.Utf8.IsValid(_replacements))
            throw new UserErrorException($"{place}: the replacements of the character map are no UTF-8 text");
        for (int start = 0; start < _replacements.Length;)
        {
            int length = _replacements.AsSpan(start).IndexOf((byte)0);
            length = length < 0 ? _replacements.Length - start : length;
            if (length > LongestReplacement)
                throw new UserErrorException($"{place}: a replacement of the character map has {length} bytes (from byte {UnitBytes + trieBytes + start} on), at most {LongestReplacement} are allowed");
            start += length + 1;
        }
        for (int c = 0; c < _ascii.Length; c++)
            _ascii[c] = Find([(byte)c]);
    }

    /// <exception cref="UserErrorException">The section is malformed.</exception>
    public static PrecompiledNormalizer ReadFrom(JsonSection section)
    {
        string text = section.Text("precompiled_charsmap");
        byte[] bytes = new byte[text.Length / 4 * 3 + 3];
        if (!Convert.TryFromBase64String(text, bytes, out int written))
            throw section.Error("'precompiled_charsmap' is no base64 text");
        return new PrecompiledNormalizer(bytes.AsSpan(0, written), section.Place);
    }

    public override string Normalize(string text, ref bool atStart)
    {
        StringBuilder? rewritten = null;
        Span<byte> utf8 = stackalloc byte[LongestCluster];
        for (int i = 0; i < text.Length;)
        {
            bool single = text[i] < 128 && (i + 1 == text.Length || text[i + 1] < 128 && !(text[i] == '\r' && text[i + 1] == '\n'));
            if (single)
            {
                Replace(i, 1, _ascii[text[i]]);
                i++;
                continue;
            }
            int length = StringInfo.GetNextTextElementLength(text.AsSpan(i));
            if (Encoding.UTF8.TryGetBytes(text.AsSpan(i, length), utf8, out int bytes) && Find(utf8[..bytes]) is { } cluster)
            {
                Replace(i, length, cluster);
            }
            else
            {
                for (int at = i; at < i + length;)
                {
                    CodePoints.At(text, at, out int units);
                    bytes = Encoding.UTF8.GetBytes(text.AsSpan(at, units), utf8);
                    Replace(at, units, Find(utf8[..bytes]));
                    at += units;
                }
            }
            i += length;
        }
        return rewritten?.ToString() ?? text;

        void Replace(int at, int length, string? replacement)
        {
            if (replacement is not null)
                (rewritten ??= new StringBuilder(text, 0, at, text.Length)).Append(replacement);
            else
                rewritten?.Append(text, at, length);
        }
    }

    /// <summary>The replacement of the shortest beginning that the trie holds; null when it holds none.</summary>
    private string? Find(ReadOnlySpan<byte> key)
    {
        if (_units.Length == 0)
            return null;
        uint at = Offset(_units[0]);
        foreach (byte b in key)
        {
            if (b == 0)
                return null;
            at ^= b;
            if (at >= _units.Length)
                return null;
            uint unit = _units[at];
            if ((unit & 0x800000FF) != b)
                return null;
            at ^= Offset(unit);
            if ((unit >> 8 & 1) != 0)
                return at < _units.Length ? ReplacementAt((int)(_units[at] & int.MaxValue)) : null;
        }
        return null;
    }

    private static uint Offset(uint unit) => unit >> 10 << (int)((unit & 1 << 9) >> 6);

    private string? ReplacementAt(int start)
    {
        if (start >= _replacements.Length)
            return null;
        ReadOnlySpan<byte> from = _replacements.AsSpan(start);
        int end = from.IndexOf((byte)0);
        return Encoding.UTF8.GetString(end < 0 ? from : from[..end]);
    }
}
