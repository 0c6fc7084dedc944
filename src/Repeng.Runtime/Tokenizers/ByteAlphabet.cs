using System.Text;

namespace Repeng.Runtime.Tokenizers;

/// <summary>
/// The printable stand-ins for the 256 bytes in byte-level vocabularies (GPT-2's <c>bytes_to_unicode</c>):
/// bytes that print in Latin-1 stand for themselves, the other 68 are U+0100 and up, in order.
/// </summary>
internal static class ByteAlphabet
{
    private static readonly char[] s_chars = MakeChars();
    private static readonly short[] s_bytes = MakeBytes();

    /// <summary>The character that stands for a byte.</summary>
    public static char CharOf(byte value) => s_chars[value];

    /// <summary>The byte that a character stands for, or -1.</summary>
    public static int ByteOf(char c) => c < s_bytes.Length ? s_bytes[c] : -1;

    /// <summary>Writes the stand-ins of the text's UTF-8 bytes; needs 3 characters of room per character of the text.</summary>
    /// <returns>The number of characters written.</returns>
    public static int Map(ReadOnlySpan<char> text, Span<char> mapped)
    {
        int written = 0;
        Span<byte> utf8 = stackalloc byte[4];
        for (int i = 0; i < text.Length;)
        {
            char c = text[i];
            if (c < 128)
            {
                mapped[written++] = s_chars[c];
                i++;
                continue;
            }
            Rune.DecodeFromUtf16(text[i..], out Rune rune, out int taken);
            int bytes = rune.EncodeToUtf8(utf8);
            for (int b = 0; b < bytes; b++)
                mapped[written++] = s_chars[utf8[b]];
            i += taken;
        }
        return written;
    }

    /// <summary>Writes the UTF-8 of the stand-ins of bytes; needs two bytes of room a byte.</summary>
    /// <returns>The number of bytes written.</returns>
    public static int MapUtf8(ReadOnlySpan<byte> bytes, Span<byte> mapped)
    {
        int written = 0;
        foreach (byte b in bytes)
        {
            char c = s_chars[b];
            if (c < 128)
            {
                mapped[written++] = (byte)c;
                continue;
            }
            // No stand-in lies beyond U+07FF.
            mapped[written++] = (byte)(0xC0 | c >> 6);
            mapped[written++] = (byte)(0x80 | c & 0x3F);
        }
        return written;
    }

    /// <summary>
    /// Writes the bytes that a token's UTF-8 stands for, or that UTF-8 itself where a character of it is no stand-in; needs as much room.
    /// </summary>
    /// <returns>The number of bytes written.</returns>
    public static int Unmap(ReadOnlySpan<byte> token, Span<byte> bytes)
    {
        int written = 0;
        for (int i = 0; i < token.Length; i++)
        {
            int c = token[i];
            if (c >= 0x80)
                c = c is >= 0xC2 and < 0xE0 ? (c & 0x1F) << 6 | token[++i] & 0x3F : int.MaxValue;
            int value = c < s_bytes.Length ? s_bytes[c] : -1;
            if (value < 0)
            {
                token.CopyTo(bytes);
                return token.Length;
            }
            bytes[written++] = (byte)value;
        }
        return written;
    }

    public static string Map(ReadOnlySpan<char> text)
    {
        char[] mapped = new char[text.Length * 3];
        return new string(mapped, 0, Map(text, mapped));
    }

    /// <summary>Appends the bytes that a token stands for; a token with a character outside the alphabet gives its UTF-8.</summary>
    public static void AppendBytes(string token, List<byte> bytes)
    {
        int start = bytes.Count;
        foreach (char c in token)
        {
            int value = ByteOf(c);
            if (value < 0)
            {
                bytes.RemoveRange(start, bytes.Count - start);
                bytes.AddRange(Encoding.UTF8.GetBytes(token));
                return;
            }
            bytes.Add((byte)value);
        }
    }

    private static char[] MakeChars()
    {
        char[] chars = new char[256];
        char next = '\u0100';
        for (int b = 0; b < 256; b++)
            chars[b] = b is (>= '!' and <= '~') or (>= 0xA1 and <= 0xAC) or (>= 0xAE and <= 0xFF) ? (char)b : next++;
        return chars;
    }

    private static short[] MakeBytes()
    {
        short[] bytes = new short[s_chars.Max() + 1];
        Array.Fill(bytes, (short)-1);
        for (int b = 0; b < 256; b++)
            bytes[s_chars[b]] = (short)b;
        return bytes;
    }
}
