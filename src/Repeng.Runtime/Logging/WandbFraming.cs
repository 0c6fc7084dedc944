using System.Buffers.Binary;
using System.IO.Hashing;

namespace Repeng.Runtime.Logging;

/// <summary>Which part of a record a chunk holds.</summary>
public enum WandbChunkType : byte
{
    /// <summary>A whole record.</summary>
    Full = 1,

    /// <summary>Its beginning.</summary>
    First = 2,

    /// <summary>Neither beginning nor end.</summary>
    Middle = 3,

    /// <summary>Its end.</summary>
    Last = 4,
}

/// <summary>A chunk as it lies in a file.</summary>
/// <param name="Offset">Byte of the file that its header begins at.</param>
/// <param name="Type">Part of the record.</param>
/// <param name="Length">Bytes of payload.</param>
/// <param name="Checksum">CRC-32 (IEEE, as in zlib) over the type byte and the payload.</param>
public readonly record struct WandbChunk(long Offset, WandbChunkType Type, int Length, uint Checksum);

/// <summary>
/// How records lie in a .wandb file: LevelDB's log in blocks of 32 KiB, with a file header, and with a plain CRC-32 in
/// the place of LevelDB's masked crc32c. No chunk crosses a block; fewer than 7 bytes at a block's end are zeros.
/// </summary>
public static class WandbFraming
{
    /// <summary>Bytes of a block; the file header is part of the first.</summary>
    public const int BlockSize = 32768;

    /// <summary>Bytes before a chunk's payload: checksum u32, length u16, type u8, little-endian.</summary>
    public const int ChunkHeaderSize = 7;

    /// <summary>":W&amp;B", 0xBEE1 little-endian, version 0.</summary>
    public static ReadOnlySpan<byte> FileHeader => [(byte)':', (byte)'W', (byte)'&', (byte)'B', 0xE1, 0xBE, 0];

    /// <summary>Checksum of a chunk.</summary>
    public static uint Checksum(WandbChunkType type, ReadOnlySpan<byte> payload)
    {
        var crc = new Crc32();
        crc.Append([(byte)type]);
        crc.Append(payload);
        return crc.GetCurrentHashAsUInt32();
    }

    /// <summary>The bytes that a record takes when it is written at <paramref name="position"/> of a file, padding of the block before it included.</summary>
    public static byte[] Frame(long position, ReadOnlySpan<byte> record)
    {
        var framed = new MemoryStream(record.Length + 2 * ChunkHeaderSize);
        Span<byte> header = stackalloc byte[ChunkHeaderSize];
        ReadOnlySpan<byte> padding = [0, 0, 0, 0, 0, 0];
        bool first = true;
        while (true)
        {
            int left = BlockSize - (int)((position + framed.Length) % BlockSize);
            if (left < ChunkHeaderSize)
            {
                framed.Write(padding[..left]);
                continue;
            }
            // With exactly 7 bytes left a chunk without payload fills the block.
            ReadOnlySpan<byte> part = record[..Math.Min(record.Length, left - ChunkHeaderSize)];
            record = record[part.Length..];
            bool last = record.IsEmpty;
            WandbChunkType type = first ? last ? WandbChunkType.Full : WandbChunkType.First : last ? WandbChunkType.Last : WandbChunkType.Middle;
            BinaryPrimitives.WriteUInt32LittleEndian(header, Checksum(type, part));
            BinaryPrimitives.WriteUInt16LittleEndian(header[4..], (ushort)part.Length);
            header[6] = (byte)type;
            framed.Write(header);
            framed.Write(part);
            if (last)
                return framed.ToArray();
            first = false;
        }
    }
}
