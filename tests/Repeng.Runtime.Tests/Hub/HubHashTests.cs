using System.Security.Cryptography;
using CsCheck;
using Repeng.Runtime.Hub;
using Repeng.Testing;

namespace Repeng.Runtime.Tests.Hub;

/// <summary>The hash beside the fetch, at every pace, and what a break leaves.</summary>
public sealed class HubHashTests : IDisposable
{
    private readonly HubFixture _hub = new();

    public void Dispose() => _hub.Dispose();

    [Fact]
    public void What_an_earlier_run_left_is_hashed_beside_the_fetch()
    {
        Leave(_hub, "model.safetensors", _hub.Weights[..20_000]);
        using var asked = new ManualResetEventSlim();
        _hub.ChangeGets("model.safetensors", (_, request, _) =>
        {
            if (request.Range(_hub.Weights.Length)!.Value.To == _hub.Weights.Length - 1)
                asked.Set();
        });
        _hub.Settings = _hub.Settings with
        {
            Read = (file, bytes, offset) =>
            {
                // Nothing is hashed before the last byte is asked for: a fetch that waited for the hash would never get there.
                if (RandomAccess.GetLength(file) >= 20_000 && !asked.Wait(TimeSpan.FromSeconds(60)))
                    throw new IOException("the fetch waits for the hash");
                return RandomAccess.Read(file, bytes, offset);
            },
        };
        _hub.Fetch();
        _hub.AssertWhole();
    }

    [Fact]
    public void However_the_hash_is_scheduled_every_byte_counts_once() => Gen.Select(Gen.Int[HubServer.Large, 900_000], Gen.Int[20_000, 300_000], Gen.Int[0, 2].Array[1, 8], Gen.Double[0, 1], Gen.Bool).Sample((size, range, pace, left, wrong) =>
    {
        using var hub = new HubFixture();
        byte[] file = HubFixture.Bytes(size, size);
        hub.Server.Put("x.gguf", file);
        byte[] had = file[..(int)(left * size)];
        if (wrong && had.Length > 0)
            had[had.Length / 2] ^= 1;
        Leave(hub, "x.gguf", had);
        var reads = new List<(long At, int Count)>();
        int calls = 0;
        hub.Settings = hub.Settings with
        {
            RangeBytes = range,
            // One thread reads: at once, after others had their turn, or late; all that it asks for or less.
            Read = (handle, bytes, offset) =>
            {
                int p = pace[calls++ % pace.Length];
                if (p > 0)
                    Thread.Sleep(p - 1);
                int count = RandomAccess.Read(handle, p == 1 ? bytes[..((bytes.Length + 1) / 2)] : bytes, offset);
                reads.Add((offset, count));
                return count;
            },
        };
        Assert.Equal(file, File.ReadAllBytes(hub.Fetch("org/model:x.gguf")));
        long at = 0;
        int rounds = 1;
        foreach ((long from, int count) in reads)
        {
            if (from == 0 && at > 0)
                (at, rounds) = (0, rounds + 1);
            Assert.Equal(at, from);
            at += count;
        }
        // What comes as one answer is hashed out of memory; of an earlier run's bytes, and of ranges, everything is read back.
        bool ranges = size > range, again = wrong && had.Length > 0;
        Assert.Equal(ranges || had.Length > 0 && !again ? size : had.Length > 0 ? reads.Sum(r => r.Count) : 0, at);
        Assert.Equal(again && ranges ? 2 : 1, rounds);
    }, iter: 40, threads: 1);

    [Fact]
    public void A_stream_is_hashed_out_of_memory_and_what_the_hash_lags_behind_out_of_the_file() => Gen.Select(Gen.Int[HubServer.Large, 6_000_000], Gen.Int[0, 1_000_000], Gen.Bool).Sample((size, left, slow) =>
    {
        using var hub = new HubFixture();
        byte[] file = HubFixture.Bytes(size, size);
        hub.Server.Put("x.gguf", file);
        Leave(hub, "x.gguf", file[..Math.Min(left, size - 1)]);
        hub.ChangeGets("x.gguf", (_, _, reply) => reply.Whole());
        long read = 0;
        hub.Settings = hub.Settings with
        {
            Read = (handle, bytes, offset) =>
            {
                // Until the last byte is there the hash stands still: of what comes meanwhile no more than sixteen parts are kept.
                while (slow && RandomAccess.GetLength(handle) < size)
                    Thread.Yield();
                int count = RandomAccess.Read(handle, bytes, offset);
                read += count;
                return count;
            },
        };
        Assert.Equal(file, File.ReadAllBytes(hub.Fetch("org/model:x.gguf")));
        Assert.InRange(read, Math.Min(left, size - 1), size);
    }, iter: 30, threads: 1);

    [Fact]
    public void The_state_of_a_hash_goes_on_where_it_was_taken_out()
    {
        Assert.SkipWhen(OpenSslSha256.TryCreate() is null, "no OpenSSL with functions that keep their state in a plain record");
        Gen.Select(Gen.Byte.Array[0, 1000], Gen.Int[0, 15], Gen.Int[0, 200]).Sample((bytes, blocks, cut) =>
        {
            int at = Math.Min(blocks * OpenSslSha256.Block, bytes.Length / OpenSslSha256.Block * OpenSslSha256.Block);
            OpenSslSha256 first = OpenSslSha256.TryCreate()!, second = OpenSslSha256.TryCreate()!;
            first.Append(bytes.AsSpan(0, at));
            second.Append(bytes.AsSpan(0, Math.Min(cut, bytes.Length)));
            second.Restore(first.Save(), at);
            second.Append(bytes.AsSpan(at));
            Assert.Equal(SHA256.HashData(bytes), second.Finish());
            if (at + 1 > bytes.Length)
                return;
            first.Append(bytes.AsSpan(at, 1));
            Assert.Throws<InvalidOperationException>(first.Save);
        });
    }

    [Fact]
    public void A_quick_sum_does_not_depend_on_how_its_bytes_come_and_changes_with_each_of_them() => Gen.Select(Gen.Int[1, 20].SelectMany(n => Gen.Byte.Array[32 * n]), Gen.Int[0, 70].Array[0, 20], Gen.Int[0, 1 << 20], Gen.Int[0, 7]).Sample((bytes, cuts, place, bit) =>
    {
        string whole = Sum(bytes);
        var parts = new QuickSum();
        int at = 0;
        foreach (int cut in cuts)
        {
            int count = Math.Min(cut, bytes.Length - at);
            parts.Append(bytes.AsSpan(at, count));
            at += count;
        }
        parts.Append(bytes.AsSpan(at));
        Assert.Equal(whole, parts.Text);
        bytes[place % bytes.Length] ^= (byte)(1 << bit);
        Assert.NotEqual(whole, Sum(bytes));
    });

    [Theory]
    [InlineData("nothing is wrong", 1)]
    [InlineData("the note of another state", 2)]
    [InlineData("the note of other bytes", 1)]
    [InlineData("a note of more than is there", 1)]
    [InlineData("half a note over another", 1)]
    [InlineData("no note", 1)]
    [InlineData("a long note", 1)]
    [InlineData("a note without numbers", 1)]
    public void A_stopped_fetch_goes_on_with_the_state_of_its_hash(string damage, int fetches)
    {
        Assert.SkipWhen(OpenSslSha256.TryCreate() is null, "no OpenSSL with functions that keep their state in a plain record");
        const int Every = 1 << 17;
        byte[] weights = HubFixture.Bytes(2_000_000, 5);
        _hub.Server.Put("x.gguf", weights);
        _hub.Settings = _hub.Settings with { NoteEvery = Every, RangeBytes = 1 << 16 };
        string partial = _hub.Blob("x.gguf") + ".incomplete", note = partial + ".hash";
        using (var stop = new CancellationTokenSource())
        using (ModelHub hub = _hub.Open())
        {
            _hub.ChangeGets("x.gguf", (_, request, _) =>
            {
                if (request.Range(weights.Length)!.Value.From < 1_500_000)
                    return;
                // When the hash has come as far as that, the fetch ends in the middle.
                SpinWait.SpinUntil(() => new HashNote(note).Read() is { Length: >= 2 * Every }, TimeSpan.FromSeconds(60));
                stop.Cancel();
            });
            Assert.ThrowsAny<OperationCanceledException>(() => hub.Fetch(HubReference.TryParse("org/model:x.gguf")!, stop: stop.Token));
        }
        HashNote.Content noted = new HashNote(note).Read()!.Value;
        Assert.Equal(0, noted.Length % Every);
        Assert.InRange(noted.Length, 2 * Every, new FileInfo(partial).Length);
        Assert.Equal(Sum(weights[..(int)noted.Length]), noted.Sum);
        byte[] text = File.ReadAllBytes(note);
        switch (damage)
        {
            case "the note of another state":
                Write(noted with { State = [.. noted.State.Select(w => w + 1)] });
                break;
            case "the note of other bytes":
                Write(noted with { Sum = new string('0', noted.Sum.Length), State = [.. noted.State.Select(w => w + 1)] });
                break;
            case "a note of more than is there":
                Write(noted with { Length = weights.Length / Every * Every, State = [.. noted.State.Select(w => w + 1)] });
                break;
            case "half a note over another":
                Write(noted with { State = [.. noted.State.Select(w => w + 1)] });
                File.WriteAllBytes(note, [.. File.ReadAllBytes(note).AsSpan(0, text.Length / 2), .. text.AsSpan(text.Length / 2)]);
                Assert.Null(new HashNote(note).Read());
                break;
            case "no note":
                File.Delete(note);
                break;
            case "a long note":
                File.WriteAllBytes(note, new byte[100_000]);
                break;
            case "a note without numbers":
                File.WriteAllText(note, "sha256 - - - -");
                break;
        }
        _hub.Server.Change = null;
        int firsts = 0;
        _hub.Settings = _hub.Settings with
        {
            Read = (file, bytes, offset) =>
            {
                if (offset == 0)
                    Interlocked.Increment(ref firsts);
                return RandomAccess.Read(file, bytes, offset);
            },
        };
        Assert.Equal(weights, File.ReadAllBytes(_hub.Fetch("org/model:x.gguf")));
        Assert.False(File.Exists(note));
        // A state that does not belong to the bytes is found out at the end, so it was the one that counted.
        Assert.Equal(fetches - 1, _hub.Notes.Count(n => n.Contains("do not fit", StringComparison.Ordinal)));
        // What a note speaks of is read for it; where the bytes are not those, again for the hash.
        Assert.Equal(damage is "the note of other bytes" or "the note of another state" ? 2 : 1, firsts);

        void Write(HashNote.Content content)
        {
            using var writer = new HashNote(note);
            writer.Write(content.Length, content.State, content.Sum);
        }
    }

    [Fact]
    public void Bytes_that_changed_after_they_were_noted_are_fetched_anew()
    {
        const int Every = 1 << 13;
        _hub.Settings = _hub.Settings with { NoteEvery = Every };
        byte[] had = _hub.Weights[..30_000];
        Leave(_hub, "model.safetensors", had);
        if (OpenSslSha256.TryCreate() is { } hash)
        {
            hash.Append(had.AsSpan(0, 3 * Every));
            using var note = new HashNote(_hub.Blob("model.safetensors") + ".incomplete.hash");
            note.Write(3 * Every, hash.Save(), Sum(had[..(3 * Every)]));
        }
        had[100] ^= 1;
        Leave(_hub, "model.safetensors", had);
        _hub.Fetch();
        _hub.AssertWhole();
        Assert.Contains(_hub.Notes, n => n.Contains("do not fit", StringComparison.Ordinal));
    }

    [Fact]
    public void A_file_that_cannot_be_read_back_is_an_error_and_kept()
    {
        _hub.Settings = _hub.Settings with { Read = (file, bytes, offset) => RandomAccess.GetLength(file) >= 10_000 ? throw new IOException("Input/output error") : RandomAccess.Read(file, bytes, offset) };
        _hub.Fails(["model.safetensors", "cannot be read back", "Input/output error", "run it again"]);
        Assert.False(File.Exists(_hub.Blob("model.safetensors")));
    }

    [Fact]
    public void A_server_without_ranges_that_breaks_off_early_is_read_to_the_end()
    {
        _hub.Settings = _hub.Settings with { Attempts = 2 };
        _hub.ChangeGets("model.safetensors", (n, _, reply) =>
        {
            reply.Whole();
            reply.BreakAfter = n < 5 ? n * 10_000 : -1;
        });
        _hub.Fetch();
        _hub.AssertWhole();
    }

    private static string Sum(byte[] bytes)
    {
        var sum = new QuickSum();
        sum.Append(bytes);
        return sum.Text;
    }

    private static void Leave(HubFixture hub, string name, byte[] bytes)
    {
        Directory.CreateDirectory(Path.GetDirectoryName(hub.Blob(name))!);
        File.WriteAllBytes(hub.Blob(name) + ".incomplete", bytes);
    }
}
