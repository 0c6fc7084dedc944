using System.Buffers.Binary;
using Google.Protobuf;
using Repeng.Kernels;
using Repeng.Runtime.Logging;
using Repeng.Runtime.Logging.Wandb;
using Repeng.Runtime.Tests.Formats;
using Record = Repeng.Runtime.Logging.Wandb.Record;

namespace Repeng.Runtime.Tests.Logging;

/// <summary>Logs that were cut, spoiled or made up.</summary>
public sealed class HostileLogTests : IDisposable
{
    private readonly TempFolder _temp = new();

    public void Dispose() => _temp.Dispose();

    [Fact]
    public void Checksums_have_their_check_values()
    {
        Assert.Equal(0xE3069283u, EventFraming.Crc32C("123456789"u8));
        // CRC-32 of "123456789", of which the first byte is taken for the type.
        Assert.Equal(0xCBF43926u, WandbFraming.Checksum((WandbChunkType)'1', "23456789"u8));
    }

    [Theory]
    // Around the end of a block, where 8, 7, 6 … 0 bytes are left after a first record that fills the rest; and more than two blocks.
    [InlineData(0)]
    [InlineData(1)]
    [InlineData(5)]
    [InlineData(6)]
    [InlineData(7)]
    [InlineData(8)]
    public void Records_of_every_length_around_a_block_read_back(int left)
    {
        byte[] first = Padded(WandbFraming.BlockSize - 2 * WandbFraming.ChunkHeaderSize - left), second = Padded(40), third = Padded(100_000);
        string path = _temp.File("blocks.wandb");
        using (WandbWriter writer = WandbWriter.Create(path))
            foreach (byte[] record in new[] { first, second, third })
                writer.Write(record);
        List<WandbEntry> entries = WandbReader.ReadAll(path);
        Assert.Equal([first, second, third], entries.Select(e => e.Payload.ToArray()));
        Assert.Equal(left is 7 or 8 ? 2 : 1, entries[1].Chunks.Count);
        Assert.True(entries[2].Chunks.Count >= 4);
        Assert.All(entries.SelectMany(e => e.Chunks), c => Assert.Equal(c.Offset / WandbFraming.BlockSize, (c.Offset + WandbFraming.ChunkHeaderSize + c.Length - 1) / WandbFraming.BlockSize));
    }

    [Fact]
    public void A_cut_wandb_file_is_an_error_with_its_place_or_ends_before_the_cut_and_can_be_continued()
    {
        string whole = _temp.File("whole.wandb"), cut = _temp.File("cut.wandb");
        Record[] records = [Row(0), Row(1), Row(2)];
        using (WandbWriter writer = WandbWriter.Create(whole))
            foreach (Record r in records)
                writer.Write(r);
        byte[] bytes = File.ReadAllBytes(whole);
        long[] ends = [.. WandbReader.ReadAll(whole).Select(e => e.Chunks[^1].Offset + 7 + e.Chunks[^1].Length)];
        for (int length = 0; length < bytes.Length; length++)
        {
            File.WriteAllBytes(cut, bytes[..length]);
            if (length < 7)
            {
                Assert.Contains("begins with", Assert.Throws<UserErrorException>(() => WandbReader.ReadAll(cut, allowCutEnd: true)).Message);
                continue;
            }
            int kept = ends.Count(e => e <= length);
            if (length == 7 || ends.Contains(length))
                Assert.Equal(kept, WandbReader.ReadAll(cut).Count);
            else
                Assert.Contains($"begins at byte {(kept == 0 ? 7 : ends[kept - 1])}:", Assert.Throws<UserErrorException>(() => WandbReader.ReadAll(cut)).Message);
            Assert.Equal(records[..kept], WandbReader.ReadAll(cut, allowCutEnd: true).Select(e => e.Record));
            using (WandbWriter writer = WandbWriter.Continue(cut, _ => true))
                foreach (Record r in records[kept..])
                    writer.Write(r.Clone());
            Assert.Equal(bytes, File.ReadAllBytes(cut));
        }
    }

    [Fact]
    public void Any_spoiled_byte_of_a_log_is_found()
    {
        string wandb = _temp.File("a.wandb"), spoiled = _temp.File("spoiled");
        using (WandbWriter writer = WandbWriter.Create(wandb))
        {
            writer.Write(Row(0));
            writer.Write(Row(1));
        }
        string events = Events(2);
        foreach ((string path, Action<string> read) in new (string, Action<string>)[] { (wandb, p => WandbReader.ReadAll(p)), (events, p => EventReader.Read(p).Count()) })
        {
            byte[] bytes = File.ReadAllBytes(path);
            for (int i = 0; i < bytes.Length; i++)
            {
                byte[] changed = [.. bytes];
                changed[i] ^= 0x41;
                File.WriteAllBytes(spoiled, changed);
                Assert.Matches("byte [0-9]+", Assert.Throws<UserErrorException>(() => read(spoiled)).Message);
            }
        }
    }

    [Fact]
    public void A_cut_event_file_is_an_error_with_its_place_or_ends_before_the_cut()
    {
        byte[] bytes = File.ReadAllBytes(Events(3));
        string cut = _temp.File("cut.tfevents");
        File.WriteAllBytes(cut, bytes);
        EventEntry[] all = [.. EventReader.Read(cut)];
        for (int length = 0; length < bytes.Length; length++)
        {
            File.WriteAllBytes(cut, bytes[..length]);
            int kept = all.Count(e => e.Offset + 16 + e.Data.Length <= length);
            Assert.Equal(all[..kept].Select(e => e.Event), EventReader.Read(cut, allowCutEnd: true).Select(e => e.Event));
            if (all.Any(e => e.Offset == length))
                Assert.Equal(kept, EventReader.Read(cut).Count());
            else
                Assert.Contains($"at byte {all[kept].Offset} ", Assert.Throws<UserErrorException>(() => EventReader.Read(cut).Count()).Message);
        }
    }

    [Fact]
    public void Hostile_lengths_are_refused_without_taking_memory()
    {
        string path = _temp.File("hostile");
        byte[] header = new byte[12];
        foreach (ulong length in new[] { 1ul << 62, ulong.MaxValue, 1ul << 31, 1_000_000_000ul })
        {
            BinaryPrimitives.WriteUInt64LittleEndian(header, length);
            BinaryPrimitives.WriteUInt32LittleEndian(header.AsSpan(8), EventFraming.Masked(header.AsSpan(0, 8)));
            File.WriteAllBytes(path, header);
            Assert.Contains($"{length} bytes", Refused(() => EventReader.Read(path).Count()));
        }

        // A message that says it holds a string of two gigabytes, in a frame that is right.
        byte[] message = [0x1A, 0xFF, 0xFF, 0xFF, 0xFF, 0x07, 1];
        File.WriteAllBytes(path, EventFraming.Frame(message));
        Assert.Contains("no message", Refused(() => EventReader.Read(path).Count()));
        File.WriteAllBytes(path, [.. WandbFraming.FileHeader, .. WandbFraming.Frame(7, message)]);
        Assert.Contains("no message", Refused(() => WandbReader.ReadAll(path)));

        byte[] chunk = WandbFraming.Frame(7, message);
        BinaryPrimitives.WriteUInt16LittleEndian(chunk.AsSpan(4), ushort.MaxValue);
        File.WriteAllBytes(path, [.. WandbFraming.FileHeader, .. chunk]);
        Assert.Contains("65535 goes beyond its block", Refused(() => WandbReader.ReadAll(path)));
    }

    [Fact]
    public void Chunks_out_of_order_are_refused()
    {
        string path = _temp.File("order.wandb");
        byte[] big = Padded(40_000);
        byte[] framed = WandbFraming.Frame(7, big);
        byte[] full = WandbFraming.Frame(7, Padded(20));
        // First chunk of a large record, then a full one: at the begin of the second block.
        File.WriteAllBytes(path, [.. WandbFraming.FileHeader, .. framed[..(WandbFraming.BlockSize - 7)], .. full]);
        Assert.Contains("byte 32768: a Full chunk stands inside a record", Refused(() => WandbReader.ReadAll(path)));
        byte[] last = framed[(WandbFraming.BlockSize - 7)..];
        File.WriteAllBytes(path, [.. WandbFraming.FileHeader, .. last]);
        Assert.Contains("byte 7: a Last chunk stands where a record must begin", Refused(() => WandbReader.ReadAll(path)));
    }

    [Fact]
    public void A_log_can_be_read_while_it_is_written()
    {
        string path = _temp.File("open.wandb");
        using WandbWriter writer = WandbWriter.Create(path);
        writer.Write(Row(0));
        Assert.Single(WandbReader.ReadAll(path));
        writer.Write(Row(1));
        Assert.Equal(2, WandbReader.ReadAll(path).Count);
        Assert.Contains("open.wandb", Assert.Throws<UserErrorException>(() => WandbWriter.Create(path)).Message);
        Assert.Contains("no such file", Assert.Throws<UserErrorException>(() => WandbReader.ReadAll(path + "x")).Message);
    }

    private static string Refused(Action read)
    {
        long before = GC.GetAllocatedBytesForCurrentThread();
        string message = Assert.Throws<UserErrorException>(read).Message;
        Assert.True(GC.GetAllocatedBytesForCurrentThread() - before < 1_000_000, message);
        return message;
    }

    private string Events(int steps)
    {
        using EventWriter writer = EventWriter.Create(_temp.File(Guid.NewGuid().ToString("N")), DateTimeOffset.UtcNow);
        for (int i = 0; i < steps; i++)
            writer.Scalars(i, DateTimeOffset.UtcNow, [new("loss", 0.5 / (i + 1))]);
        return writer.FilePath;
    }

    private static Record Row(int step) => new() { History = new HistoryRecord { Step = new HistoryStep { Num = step }, Item = { new Item { Key = "loss", ValueJson = "0.25" } } } };

    // A record of so many bytes.
    private static byte[] Padded(int bytes)
    {
        // Field 19 (uuid, a string): a tag of two bytes and a length of one to three.
        for (int head = 3; head <= 5; head++)
            if (new Record { Uuid = new string('u', bytes - head) }.ToByteArray() is { } record && record.Length == bytes)
                return record;
        throw new ArgumentException($"no record has {bytes} bytes", nameof(bytes));
    }
}
