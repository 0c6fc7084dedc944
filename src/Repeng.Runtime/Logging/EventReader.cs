using System.Buffers.Binary;
using Google.Protobuf;
using Repeng.Kernels;
using Repeng.Runtime.Formats;
using Repeng.Runtime.Logging.TensorBoard;

namespace Repeng.Runtime.Logging;

/// <summary>An event of a TensorBoard file and where it lay.</summary>
/// <param name="Offset">Byte of the file that its length begins at.</param>
/// <param name="Data">The serialised Event.</param>
/// <param name="LengthChecksum">Masked crc32c of the length.</param>
/// <param name="DataChecksum">Masked crc32c of the data.</param>
/// <param name="Event">The decoded message.</param>
public sealed record EventEntry(long Offset, ReadOnlyMemory<byte> Data, uint LengthChecksum, uint DataChecksum, Event Event);

/// <summary>Reads a TensorBoard event file. The file may be hostile: a length is checked against what is left of the file before memory is taken.</summary>
public static class EventReader
{
    /// <summary>Goes through the events of a file, also one that is still being written.</summary>
    /// <param name="path">The file.</param>
    /// <param name="allowCutEnd">An event that the end of the file cuts off ends the reading instead of being an error: so a killed writer leaves its file.</param>
    /// <exception cref="UserErrorException">It cannot be read or is damaged; the line names the byte.</exception>
    public static IEnumerable<EventEntry> Read(string path, bool allowCutEnd = false)
    {
        using FileStream file = Open(path);
        byte[] header = new byte[EventFraming.HeaderSize];
        for (long offset = 0; ;)
        {
            int got = Fill(path, file, header);
            if (got == 0)
                yield break;
            if (got < header.Length)
            {
                Cut(path, allowCutEnd, $"the event header at byte {offset} needs {header.Length} bytes, {got} are there");
                yield break;
            }
            ulong length = BinaryPrimitives.ReadUInt64LittleEndian(header);
            uint lengthChecksum = BinaryPrimitives.ReadUInt32LittleEndian(header.AsSpan(8));
            Require(path, offset, "length", lengthChecksum, header.AsSpan(0, 8));
            long left = Math.Max(0, file.Length - offset - EventFraming.HeaderSize - EventFraming.FooterSize);
            if (length > (ulong)left || length > (ulong)Array.MaxLength - EventFraming.FooterSize)
            {
                Cut(path, allowCutEnd, $"the event at byte {offset} holds {length} bytes, the file has {left} for it");
                yield break;
            }
            byte[] data = new byte[(int)length + EventFraming.FooterSize];
            if (Fill(path, file, data) < data.Length)
            {
                Cut(path, allowCutEnd, $"the event at byte {offset} holds {length} bytes, but the file became shorter while it was read");
                yield break;
            }
            ReadOnlyMemory<byte> message = data.AsMemory(0, (int)length);
            uint dataChecksum = BinaryPrimitives.ReadUInt32LittleEndian(data.AsSpan((int)length));
            Require(path, offset, "data", dataChecksum, message.Span);
            yield return new EventEntry(offset, message, lengthChecksum, dataChecksum, Decode(path, offset, message));
            offset += EventFraming.HeaderSize + data.Length;
        }
    }

    private static Event Decode(string path, long offset, ReadOnlyMemory<byte> message)
    {
        try
        {
            return Event.Parser.ParseFrom(message.Span);
        }
        catch (InvalidProtocolBufferException e)
        {
            throw FileErrors.Bad(path, $"damaged at byte {offset}: the event of {message.Length} bytes is no message: {e.Message}", e);
        }
    }

    private static void Require(string path, long offset, string what, uint stored, ReadOnlySpan<byte> bytes)
    {
        uint found = EventFraming.Masked(bytes);
        if (found != stored)
            throw FileErrors.Bad(path, $"damaged at byte {offset}: the checksum of the {what} is {stored:x8}, its bytes give {found:x8}; is it a TensorBoard event file?");
    }

    private static void Cut(string path, bool allowed, string what)
    {
        if (!allowed)
            throw FileErrors.Bad(path, $"the file ends inside an event: {what}. A writer that was killed leaves such an end; everything before it can be read");
    }

    private static FileStream Open(string path)
    {
        try
        {
            return new FileStream(path, FileMode.Open, FileAccess.Read, FileShare.ReadWrite);
        }
        catch (Exception e) when (FileErrors.IsFileTrouble(e))
        {
            throw FileErrors.CannotRead(path, e);
        }
    }

    private static int Fill(string path, FileStream file, Span<byte> into)
    {
        try
        {
            return file.ReadAtLeast(into, into.Length, throwOnEndOfStream: false);
        }
        catch (Exception e) when (FileErrors.IsFileTrouble(e))
        {
            throw FileErrors.CannotRead(path, e);
        }
    }
}
