using System.Buffers.Binary;
using System.Numerics;

namespace Repeng.Runtime.Logging;

/// <summary>
/// How events lie in a TensorBoard file (TFRecord): length u64, masked crc32c of those 8 bytes, data, masked crc32c of
/// the data; little-endian.
/// </summary>
public static class EventFraming
{
    /// <summary>Bytes before the data.</summary>
    public const int HeaderSize = 12;

    /// <summary>Bytes after the data.</summary>
    public const int FooterSize = 4;

    /// <summary>CRC-32C (Castagnoli, reflected 0x82F63B78); of "123456789" it is 0xE3069283.</summary>
    public static uint Crc32C(ReadOnlySpan<byte> data)
    {
        uint crc = uint.MaxValue;
        for (; data.Length >= 8; data = data[8..])
            crc = BitOperations.Crc32C(crc, BinaryPrimitives.ReadUInt64LittleEndian(data));
        foreach (byte b in data)
            crc = BitOperations.Crc32C(crc, b);
        return ~crc;
    }

    /// <summary>The checksum as it is stored: rotated and shifted, since a checksum of data that hold their own checksum is weak.</summary>
    public static uint Masked(ReadOnlySpan<byte> data) => BitOperations.RotateRight(Crc32C(data), 15) + 0xA282EAD8;

    /// <summary>An event's bytes in their frame.</summary>
    public static byte[] Frame(ReadOnlySpan<byte> data)
    {
        byte[] framed = new byte[HeaderSize + data.Length + FooterSize];
        BinaryPrimitives.WriteUInt64LittleEndian(framed, (ulong)data.Length);
        BinaryPrimitives.WriteUInt32LittleEndian(framed.AsSpan(8), Masked(framed.AsSpan(0, 8)));
        data.CopyTo(framed.AsSpan(HeaderSize));
        BinaryPrimitives.WriteUInt32LittleEndian(framed.AsSpan(HeaderSize + data.Length), Masked(data));
        return framed;
    }
}
