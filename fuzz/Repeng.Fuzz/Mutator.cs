using System.Buffers.Binary;
using System.Globalization;
using System.Text;

namespace Repeng.Fuzz;

/// <summary>Damages an input: bits, bytes, numbers of every width, pieces moved, doubled and cut, words inserted, two inputs joined.</summary>
public sealed class Mutator(int seed, IReadOnlyList<string> words)
{
    private const int LongestInput = 1 << 16;
    private static readonly ulong[] s_numbers = [0, 1, 2, 3, 7, 8, 15, 16, 31, 32, 64, 127, 128, 255, 256, 1024, 4096, 32767, 32768, 65535, 65536, int.MaxValue, 1UL << 31, uint.MaxValue, 1UL << 32, 1UL << 48, 1UL << 60, 1UL << 62, long.MaxValue, 1UL << 63, ulong.MaxValue];
    private static readonly string[] s_texts = ["0", "1", "-1", "2147483647", "2147483648", "-2147483649", "9223372036854775808", "1e308", "1e999", "0.5", "NaN", "null", "true", "false", "[]", "{}", "\"\"", "\"\\ud800\"", "[", "]", "{", "}", ",", ":", "\"", "\\", "\0", "\uFFFD", "é", "𐀀"];
    private readonly Random _random = new(seed);

    /// <summary>A damaged copy.</summary>
    public byte[] Mutate(byte[] input, byte[] other)
    {
        var bytes = new List<byte>(input);
        for (int n = 1 << _random.Next(0, 4); n > 0; n--)
            Step(bytes, other);
        if (bytes.Count > LongestInput)
            bytes.RemoveRange(LongestInput, bytes.Count - LongestInput);
        return [.. bytes];
    }

    private void Step(List<byte> bytes, byte[] other)
    {
        int at = _random.Next(bytes.Count + 1);
        switch (_random.Next(12))
        {
            case 0 when at < bytes.Count:
                bytes[at] ^= (byte)(1 << _random.Next(8));
                break;
            case 1 when at < bytes.Count:
                bytes[at] = (byte)_random.Next(256);
                break;
            case 2 or 3:
                Number(bytes, at);
                break;
            case 4 when at < bytes.Count:
                bytes[at] += (byte)_random.Next(-8, 9);
                break;
            case 5:
                bytes.InsertRange(at, Enumerable.Repeat((byte)_random.Next(256), 1 << _random.Next(0, 9)));
                break;
            case 6 when bytes.Count > 0:
                at = _random.Next(bytes.Count);
                bytes.RemoveRange(at, Math.Min(bytes.Count - at, 1 << _random.Next(0, 9)));
                break;
            case 7 when bytes.Count > 0:
                // A piece of itself somewhere else: lengths and types then stand where others were.
                int from = _random.Next(bytes.Count);
                List<byte> piece = bytes.GetRange(from, Math.Min(bytes.Count - from, 1 << _random.Next(0, 8)));
                if (_random.Next(2) == 0)
                    bytes.InsertRange(at, piece);
                else
                    for (int i = 0; i < piece.Count && at + i < bytes.Count; i++)
                        bytes[at + i] = piece[i];
                break;
            case 8 when other.Length > 0:
                int start = _random.Next(other.Length);
                bytes.RemoveRange(at, bytes.Count - at);
                bytes.AddRange(other[start..]);
                break;
            case 9 or 10:
                string word = words.Count > 0 && _random.Next(3) > 0 ? words[_random.Next(words.Count)] : s_texts[_random.Next(s_texts.Length)];
                byte[] text = Encoding.UTF8.GetBytes(word);
                if (_random.Next(2) == 0)
                    bytes.InsertRange(at, text);
                else
                    for (int i = 0; i < text.Length && at + i < bytes.Count; i++)
                        bytes[at + i] = text[i];
                break;
            default:
                Digits(bytes);
                break;
        }
    }

    private void Number(List<byte> bytes, int at)
    {
        Span<byte> raw = stackalloc byte[8];
        ulong value = s_numbers[_random.Next(s_numbers.Length)];
        if (_random.Next(4) == 0)
            value = (ulong)-(long)value;
        BinaryPrimitives.WriteUInt64LittleEndian(raw, value);
        int width = 1 << _random.Next(4);
        for (int i = 0; i < width && at + i < bytes.Count; i++)
            bytes[at + i] = raw[i];
    }

    /// <summary>Another number in the place of one that is written out.</summary>
    private void Digits(List<byte> bytes)
    {
        int from = bytes.Count == 0 ? 0 : _random.Next(bytes.Count);
        int start = bytes.FindIndex(from, static b => char.IsAsciiDigit((char)b));
        if (start < 0)
            return;
        int end = start;
        while (end < bytes.Count && char.IsAsciiDigit((char)bytes[end]))
            end++;
        bytes.RemoveRange(start, end - start);
        string number = _random.Next(3) == 0 ? _random.Next(300).ToString(CultureInfo.InvariantCulture) : s_numbers[_random.Next(s_numbers.Length)].ToString(CultureInfo.InvariantCulture);
        bytes.InsertRange(start, Encoding.ASCII.GetBytes(number));
    }
}
