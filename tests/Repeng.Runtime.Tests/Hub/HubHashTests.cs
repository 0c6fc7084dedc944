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
        Assert.Equal(size, at);
        Assert.Equal(wrong && had.Length > 0 ? 2 : 1, rounds);
    }, iter: 40, threads: 1);

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

    private static void Leave(HubFixture hub, string name, byte[] bytes)
    {
        Directory.CreateDirectory(Path.GetDirectoryName(hub.Blob(name))!);
        File.WriteAllBytes(hub.Blob(name) + ".incomplete", bytes);
    }
}
