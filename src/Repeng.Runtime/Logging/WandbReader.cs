using System.Buffers.Binary;
using Google.Protobuf;
using Repeng.Kernels;
using Repeng.Runtime.Formats;
using Repeng.Runtime.Logging.Wandb;

namespace Repeng.Runtime.Logging;

/// <summary>A record of a .wandb file: its bytes and where they lay.</summary>
/// <param name="Payload">One serialised Record.</param>
/// <param name="Chunks">At least one.</param>
/// <param name="Record">The decoded message.</param>
public sealed record WandbEntry(ReadOnlyMemory<byte> Payload, IReadOnlyList<WandbChunk> Chunks, Record Record)
{
    /// <summary>Byte of the file that it begins at.</summary>
    public long Offset => Chunks[0].Offset;
}

/// <summary>
/// Reads a .wandb file record by record. The file may be hostile: every length is checked against its block and its
/// file before it is used, and memory never exceeds a block and the record at hand.
/// </summary>
public sealed class WandbReader : IDisposable
{
    private readonly string _path;
    private readonly FileStream _file;
    private readonly bool _allowCutEnd;
    private readonly byte[] _block = new byte[WandbFraming.BlockSize];
    private long _position;

    private WandbReader(string path, FileStream file, bool allowCutEnd) => (_path, _file, _allowCutEnd) = (path, file, allowCutEnd);

    /// <summary>Where the whole records end, when the file breaks off inside a record; null when it does not (known after the last record).</summary>
    public long? CutAt { get; private set; }

    /// <summary>Opens a file, also one that is still being written.</summary>
    /// <param name="path">The .wandb file.</param>
    /// <param name="allowCutEnd">A record that the end of the file cuts off ends the reading instead of being an error: so a killed writer leaves its file.</param>
    /// <exception cref="UserErrorException">It cannot be read or is no such file.</exception>
    public static WandbReader Open(string path, bool allowCutEnd = false)
    {
        try
        {
            var reader = new WandbReader(path, new FileStream(path, FileMode.Open, FileAccess.Read, FileShare.ReadWrite), allowCutEnd);
            try
            {
                reader.ReadFileHeader();
                return reader;
            }
            catch
            {
                reader.Dispose();
                throw;
            }
        }
        catch (Exception e) when (FileErrors.IsFileTrouble(e))
        {
            throw FileErrors.CannotRead(path, e);
        }
    }

    /// <summary>All records of a file.</summary>
    /// <exception cref="UserErrorException">As <see cref="Open"/> and <see cref="Next"/>.</exception>
    public static List<WandbEntry> ReadAll(string path, bool allowCutEnd = false)
    {
        using WandbReader reader = Open(path, allowCutEnd);
        var entries = new List<WandbEntry>();
        while (reader.Next() is { } entry)
            entries.Add(entry);
        return entries;
    }

    /// <summary>The next record; null after the last.</summary>
    /// <exception cref="UserErrorException">A chunk or a message is damaged; the line names the byte.</exception>
    public WandbEntry? Next()
    {
        var chunks = new List<WandbChunk>();
        var payload = new MemoryStream();
        long begin = _position;
        Span<byte> header = stackalloc byte[WandbFraming.ChunkHeaderSize];
        while (true)
        {
            int left = WandbFraming.BlockSize - (int)(_position % WandbFraming.BlockSize);
            if (left < WandbFraming.ChunkHeaderSize)
            {
                SkipPadding(left);
                continue;
            }
            int got = Read(header);
            if (got == 0 && chunks.Count == 0)
                return null;
            if (got < header.Length)
                return Cut(begin, $"the chunk header at byte {_position} needs 7 bytes, {got} are there");
            uint checksum = BinaryPrimitives.ReadUInt32LittleEndian(header);
            int length = BinaryPrimitives.ReadUInt16LittleEndian(header[4..]);
            if (header[6] is < 1 or > 4)
                throw Bad(_position, $"chunk type {header[6]} is none of 1 (full), 2 (first), 3 (middle), 4 (last)");
            var type = (WandbChunkType)header[6];
            if (length > left - WandbFraming.ChunkHeaderSize)
                throw Bad(_position, $"the chunk's length {length} goes beyond its block, which has {left - WandbFraming.ChunkHeaderSize} bytes left");
            if (type is WandbChunkType.Full or WandbChunkType.First != (chunks.Count == 0))
                throw Bad(_position, chunks.Count == 0 ? $"a {type} chunk stands where a record must begin" : $"a {type} chunk stands inside a record");
            Span<byte> part = _block.AsSpan(0, length);
            got = Read(part);
            if (got < length)
                return Cut(begin, $"the chunk at byte {_position} holds {length} bytes, {got} are there");
            uint found = WandbFraming.Checksum(type, part);
            if (found != checksum)
                throw Bad(_position, $"the chunk's checksum is {checksum:x8}, its bytes give {found:x8}");
            payload.Write(part);
            chunks.Add(new WandbChunk(_position, type, length, checksum));
            _position += WandbFraming.ChunkHeaderSize + length;
            if (type is WandbChunkType.Full or WandbChunkType.Last)
                return Decode(payload.ToArray(), chunks);
        }
    }

    /// <inheritdoc/>
    public void Dispose() => _file.Dispose();

    private WandbEntry Decode(byte[] payload, List<WandbChunk> chunks)
    {
        try
        {
            return new WandbEntry(payload, chunks, Record.Parser.ParseFrom(payload));
        }
        catch (InvalidProtocolBufferException e)
        {
            throw Bad(chunks[0].Offset, $"the record of {payload.Length} bytes is no message: {e.Message}", e);
        }
    }

    private void ReadFileHeader()
    {
        Span<byte> header = stackalloc byte[WandbFraming.FileHeader.Length];
        int got = Read(header);
        if (got < header.Length || !header.SequenceEqual(WandbFraming.FileHeader))
            throw Bad(0, $"a .wandb file begins with {Convert.ToHexString(WandbFraming.FileHeader)} (':W&B', 0xBEE1, version 0), here is {Convert.ToHexString(header[..got])}");
        _position = header.Length;
    }

    private void SkipPadding(int count)
    {
        Span<byte> padding = stackalloc byte[count];
        int got = Read(padding);
        if (padding[..got].ContainsAnyExcept((byte)0))
            throw Bad(_position, $"the last {count} bytes of a block must be zeros");
        _position += count;
    }

    private WandbEntry? Cut(long recordBegin, string what)
    {
        if (!_allowCutEnd)
            throw FileErrors.Bad(_path, $"the file ends inside a record that begins at byte {recordBegin}: {what}. A writer that was killed leaves such an end; everything before it can be read");
        CutAt = recordBegin;
        return null;
    }

    private int Read(Span<byte> into)
    {
        try
        {
            return _file.ReadAtLeast(into, into.Length, throwOnEndOfStream: false);
        }
        catch (Exception e) when (FileErrors.IsFileTrouble(e))
        {
            throw FileErrors.CannotRead(_path, e);
        }
    }

    private UserErrorException Bad(long offset, string what, Exception? inner = null) => FileErrors.Bad(_path, $"damaged at byte {offset}: {what}", inner);
}
