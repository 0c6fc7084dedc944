using System.Collections.Concurrent;
using Microsoft.Win32.SafeHandles;
using Repeng.Runtime.Hub;
using Repeng.Testing;

namespace Repeng.Runtime.Tests.Hub;

/// <summary>Files of near servers, which are written past the page cache where that can be.</summary>
public sealed class HubDirectTests : IDisposable
{
    private const int Size = (12 << 20) + 1234;
    private readonly HubFixture _hub = new();
    private readonly ConcurrentQueue<(SafeFileHandle File, int Count, long Offset)> _writes = new();
    private readonly HubBody _body = new(HubFixture.Bytes(1 << 20, 7), Size);

    public HubDirectTests()
    {
        _hub.Server.Put("x.gguf", _body);
        _hub.Settings = _hub.Settings with { RangeBytes = null, NearLatency = TimeSpan.FromMinutes(1), Write = Write };
    }

    public void Dispose() => _hub.Dispose();

    [Theory]
    [InlineData(0)]
    [InlineData(1)]
    [InlineData(3 << 20)]
    [InlineData((5 << 20) + 4097)]
    [InlineData(Size - 1)]
    public void Whole_pages_go_past_the_page_cache_and_the_rest_does_not(int left)
    {
        Leave(left);
        string path = _hub.Fetch("org/model:x.gguf");
        Assert.Equal(_body.Sha256(), Hash(path));
        SafeFileHandle plain = _writes.First().File;
        (SafeFileHandle File, int Count, long Offset)[] direct = [.. _writes.Where(w => w.File != plain)];
        Assert.All(direct, w => Assert.Equal((0, 0), (w.Count % DirectFile.Align, w.Offset % DirectFile.Align)));
        // Every byte is written once, whichever way.
        Assert.Equal(Size - left, _writes.Sum(w => (long)w.Count));
        using DirectFile? can = DirectFile.TryOpen(path);
        Assert.SkipWhen(can is null, "this system or file system writes nothing past its page cache");
        Assert.Equal(left < Size - (1 << 20), direct.Length > 0);
    }

    [Fact]
    public void A_file_system_that_refuses_such_writes_gets_plain_ones()
    {
        SafeFileHandle? first = null;
        int refused = 0;
        _hub.Settings = _hub.Settings with
        {
            Write = (file, bytes, offset) =>
            {
                if (file != (first ??= file) && ++refused > 0)
                    throw new IOException("Invalid argument");
                Write(file, bytes, offset);
            },
        };
        Assert.Equal(_body.Sha256(), Hash(_hub.Fetch("org/model:x.gguf")));
        Assert.InRange(refused, 0, 1);
        Assert.Equal(Size, _writes.Sum(w => (long)w.Count));
    }

    [Fact]
    public void A_slow_disk_is_left_to_the_page_cache()
    {
        var large = new HubBody(HubFixture.Bytes(1 << 20, 8), 90 << 20);
        _hub.Server.Put("x.gguf", large);
        SafeFileHandle? first = null;
        _hub.Settings = _hub.Settings with
        {
            Write = (file, bytes, offset) =>
            {
                if (file != (first ??= file))
                    Thread.Sleep(6);
                Write(file, bytes, offset);
            },
        };
        Assert.Equal(large.Sha256(), Hash(_hub.Fetch("org/model:x.gguf")));
        long direct = _writes.Where(w => w.File != first).Sum(w => (long)w.Count);
        // What one window takes, up to a whole part, and then no more.
        Assert.InRange(direct, 0, (64 << 20) + FilePart.Size);
        Assert.Equal(large.Length, _writes.Sum(w => (long)w.Count));
    }

    private static string Hash(string path) => Convert.ToHexStringLower(System.Security.Cryptography.SHA256.HashData(File.ReadAllBytes(path)));

    private void Write(SafeFileHandle file, ReadOnlySpan<byte> bytes, long offset)
    {
        RandomAccess.Write(file, bytes, offset);
        _writes.Enqueue((file, bytes.Length, offset));
    }

    private void Leave(int count)
    {
        Directory.CreateDirectory(Path.GetDirectoryName(_hub.Blob("x.gguf"))!);
        using FileStream file = File.Create(_hub.Blob("x.gguf") + ".incomplete");
        for (long at = 0; at < count;)
        {
            ReadOnlyMemory<byte> part = _body.At(at, count - at);
            file.Write(part.Span);
            at += part.Length;
        }
    }
}
