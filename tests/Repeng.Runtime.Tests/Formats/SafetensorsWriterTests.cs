using System.Text;
using Repeng.Kernels;
using Repeng.Runtime.Formats;

namespace Repeng.Runtime.Tests.Formats;

/// <summary>What the writer writes, byte by byte, and what comes back.</summary>
public sealed class SafetensorsWriterTests : IDisposable
{
    private readonly TempFolder _folder = new();

    public void Dispose() => _folder.Dispose();

    [Fact]
    public void LayoutIsThatOfTheReferenceLibrary()
    {
        // Widest type first, then by name; header padded with blanks to a multiple of 8.
        string header = """{"__metadata__":{"a":"1","format":"pt"},"w":{"dtype":"I64","shape":[1],"data_offsets":[0,8]},"a":{"dtype":"F32","shape":[2],"data_offsets":[8,16]},"b":{"dtype":"F32","shape":[],"data_offsets":[16,20]},"c":{"dtype":"U8","shape":[3,0],"data_offsets":[20,20]}}""";
        header = header.PadRight((header.Length + 7) / 8 * 8);
        byte[] expected = [.. BitConverter.GetBytes((long)header.Length), .. Encoding.UTF8.GetBytes(header),
            .. BitConverter.GetBytes(7L), .. BitConverter.GetBytes(1f), .. BitConverter.GetBytes(2f), .. BitConverter.GetBytes(3f)];

        string path = _folder.File("x.safetensors");
        new SafetensorsWriter()
            .AddRaw("c", "U8", [3, 0], ReadOnlyMemory<byte>.Empty)
            .Add("b", [], new[] { 3f })
            .SetMetadata("format", "pt")
            .Add("w", [1], new[] { 7L })
            .SetMetadata("a", "1")
            .Add("a", [2], new[] { 1f, 2f })
            .Write(path);
        Assert.Equal(expected, File.ReadAllBytes(path));
    }

    [Fact]
    public void EveryTypeComesBack()
    {
        string path = _folder.File("x.safetensors");
        new SafetensorsWriter()
            .Add("f32", [2, 2], new[] { 1f, -2f, 0.5f, float.MaxValue })
            .Add("f64", [1], new[] { 0.1 })
            .Add("i64", [2], new[] { long.MinValue, long.MaxValue })
            .Add("i32", [2], new[] { -5, 5 })
            .AddRaw("bf16", "BF16", [2], new byte[] { 0x80, 0x3F, 0x00, 0xC0 })
            .AddRaw("f16", "F16", [2], new byte[] { 0x00, 0x3C, 0x01, 0x00 })
            .AddRaw("bool", "BOOL", [3], new byte[] { 0, 1, 1 })
            .AddRaw("i8", "I8", [2], new byte[] { 0xFF, 0x7F })
            .AddRaw("u16", "U16", [1], new byte[] { 0xFF, 0xFF })
            .AddRaw("i16", "I16", [1], new byte[] { 0xFF, 0xFF })
            .AddRaw("u32", "U32", [1], new byte[] { 0xFF, 0xFF, 0xFF, 0xFF })
            .AddRaw("f8", "F8_E4M3", [2], new byte[] { 1, 2 })
            .AddRaw("f4", "F4", [4], new byte[] { 1, 2 })
            .SetMetadata("ключ \"1\"", "wert\n")
            .Write(path);
        using SafetensorsFile file = SafetensorsFile.Open(path);
        Assert.Equal("wert\n", file.Metadata["ключ \"1\""]);
        Assert.Equal([1f, -2f, 0.5f, float.MaxValue], file.ReadF32("f32"));
        Assert.Equal([0.1], file.ReadF64("f64"));
        Assert.Equal([long.MinValue, long.MaxValue], file.ReadI64("i64"));
        Assert.Equal([-5, 5], file.ReadI32("i32"));
        Assert.Equal([1f, -2f], file.ReadF32("bf16"));
        Assert.Equal([1.0, Math.Pow(2, -24)], file.ReadF64("f16"));
        Assert.Equal([0L, 1, 1], file.ReadI64("bool"));
        Assert.Equal([-1f, 127f], file.ReadF32("i8"));
        Assert.Equal([65535f], file.ReadF32("u16"));
        Assert.Equal([-1L], file.ReadI64("i16"));
        Assert.Equal([(double)uint.MaxValue], file.ReadF64("u32"));
        Assert.Equal(new byte[] { 1, 2 }, file.ReadBytes("f8"));
        Assert.Equal([4L], file.Info("f4").Shape);
        Assert.Contains("F8_E4M3", Assert.Throws<UserErrorException>(() => file.ReadF32("f8")).Message);
        Assert.Contains("integers are needed", Assert.Throws<UserErrorException>(() => file.ReadI64("f32")).Message);
        Assert.Contains("no 32-bit integer", Assert.Throws<UserErrorException>(() => file.ReadI32("i64")).Message);
        Assert.Contains("shape [2, 2], needed is [any, 3]", Assert.Throws<UserErrorException>(() => file.Info("f32", -1, 3)).Message);
        Assert.Equal(4, file.Info("f32", -1, 2).Elements);
        Assert.True(file.TryMap("i32", out MappedBytes mapped));
        Assert.Equal(BitConverter.GetBytes(5), mapped.Slice(4, 4));
        Assert.Throws<ArgumentOutOfRangeException>(() => mapped.Slice(5, 4).Length);
    }

    [Fact]
    public unsafe void RowsAreReadAlone()
    {
        string path = _folder.File("x.safetensors");
        new SafetensorsWriter().Add("t", [2, 2, 3], Enumerable.Range(0, 12).Select(i => (float)i).ToArray()).Write(path);
        using SafetensorsFile file = SafetensorsFile.Open(path);
        Assert.Equal((4L, 3L), (file.Info("t").Rows, file.Info("t").RowLength));
        var rows = new float[6];
        fixed (float* p = rows)
            file.ReadF32("t", 1, 2, p);
        Assert.Equal([3f, 4, 5, 6, 7, 8], rows);
        foreach ((long first, long count) in new[] { (-1L, 1L), (0L, 5L), (4L, 1L), (0L, -1L), (1L, long.MaxValue) })
            Assert.Throws<ArgumentOutOfRangeException>(() =>
            {
                fixed (float* p = rows)
                    file.ReadF32("t", first, count, p);
            });
    }

    [Fact]
    public void WhatCannotBeWrittenIsRefused()
    {
        var writer = new SafetensorsWriter().Add("a", [1], new[] { 1f });
        Assert.Throws<ArgumentException>(() => writer.Add("a", [1], new[] { 1f }));
        Assert.Throws<ArgumentException>(() => writer.Add("b", [2], new[] { 1f }));
        Assert.Throws<ArgumentException>(() => writer.Add("__metadata__", [1], new[] { 1f }));
        Assert.Throws<ArgumentException>(() => writer.AddRaw("b", "Q8_0", [32], new byte[34]));
        Assert.Throws<ArgumentException>(() => writer.AddRaw("b", "U8", [-1], new byte[0]));
        Assert.Throws<ArgumentException>(() => writer.AddRaw("b", "U8", [1L << 40, 1L << 40], new byte[0]));
        Assert.Equal(1, writer.Count);

        string path = _folder.File("x.safetensors");
        writer.AddStreamed("short", "U8", [10], s => s.Write(new byte[9]));
        Assert.Contains("short", Assert.Throws<InvalidOperationException>(() => writer.Write(path)).Message);
        Assert.Empty(Directory.GetFileSystemEntries(_folder.Root));
    }

    [Fact]
    public void AClosedFileCannotBeRead()
    {
        string path = _folder.File("x.safetensors");
        new SafetensorsWriter().Add("a", [1], new[] { 1f }).Write(path);
        SafetensorsFile file = SafetensorsFile.Open(path);
        file.Dispose();
        file.Dispose();
        Assert.Throws<ObjectDisposedException>(() => file.ReadF32("a"));
        Assert.Throws<ObjectDisposedException>(() => file.TryMap("a", out _));
    }

    [Fact]
    public void WhatIsNoFileIsSaidPlainly()
    {
        Assert.Contains("no such file", Assert.Throws<UserErrorException>(() => SafetensorsFile.Open(_folder.File("nowhere"))).Message);
        Assert.Contains("is a folder", Assert.Throws<UserErrorException>(() => SafetensorsFile.Open(_folder.Root)).Message);
    }
}
