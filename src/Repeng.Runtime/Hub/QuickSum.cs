using System.Globalization;
using System.Numerics;
using System.Runtime.InteropServices;

namespace Repeng.Runtime.Hub;

/// <summary>
/// A checksum at the speed of memory: four CRC-32C, each of every fourth word of 8 bytes. It finds out whether bytes are
/// still those of an earlier run, not whether somebody meant to deceive.
/// </summary>
internal sealed class QuickSum
{
    private const int Words = 4, Step = Words * sizeof(ulong);

    // Bytes behind the last whole step.
    private readonly byte[] _rest = new byte[Step];
    private int _pending;
    private uint _a, _b, _c, _d;

    /// <summary>The sum of nothing.</summary>
    public QuickSum()
    {
    }

    /// <summary>Goes on behind whole steps with the sum that <see cref="Text"/> gave; <see cref="FormatException"/> where it is none.</summary>
    public QuickSum(string text)
    {
        if (text.Length != Words * 8)
            throw new FormatException("no quick sum");
        uint[] words = [.. text.Chunk(8).Select(w => uint.Parse(w, NumberStyles.HexNumber, CultureInfo.InvariantCulture))];
        (_a, _b, _c, _d) = (words[0], words[1], words[2], words[3]);
    }

    /// <summary>Takes the next bytes.</summary>
    public void Append(ReadOnlySpan<byte> bytes)
    {
        if (_pending > 0)
        {
            int more = Math.Min(Step - _pending, bytes.Length);
            bytes[..more].CopyTo(_rest.AsSpan(_pending));
            bytes = bytes[more..];
            _pending += more;
            if (_pending < Step)
                return;
            Whole(_rest);
            _pending = 0;
        }
        int whole = bytes.Length / Step * Step;
        Whole(bytes[..whole]);
        bytes[whole..].CopyTo(_rest);
        _pending = bytes.Length - whole;
    }

    /// <summary>The sum of whole steps of 32 bytes, as text.</summary>
    public string Text => _pending == 0 ? $"{_a:x8}{_b:x8}{_c:x8}{_d:x8}" : throw new InvalidOperationException("the last step is not whole");

    private void Whole(ReadOnlySpan<byte> bytes)
    {
        (uint a, uint b, uint c, uint d) = (_a, _b, _c, _d);
        ReadOnlySpan<ulong> words = MemoryMarshal.Cast<byte, ulong>(bytes);
        // One word waits three cycles for the one before it; four that wait for none of each other fill them.
        for (int i = 0; i + Words <= words.Length; i += Words)
        {
            a = BitOperations.Crc32C(a, words[i]);
            b = BitOperations.Crc32C(b, words[i + 1]);
            c = BitOperations.Crc32C(c, words[i + 2]);
            d = BitOperations.Crc32C(d, words[i + 3]);
        }
        (_a, _b, _c, _d) = (a, b, c, d);
    }
}
