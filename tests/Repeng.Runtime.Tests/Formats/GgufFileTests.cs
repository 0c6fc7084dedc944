using Repeng.Kernels;
using Repeng.Runtime.Formats;

namespace Repeng.Runtime.Tests.Formats;

/// <summary>Metadata and tensors that the writer wrote, read back.</summary>
public sealed class GgufFileTests : IDisposable
{
    private readonly TempFolder _folder = new();

    public void Dispose() => _folder.Dispose();

    [Fact]
    public void EveryMetadataTypeComesBack()
    {
        using GgufFile file = Write(new GgufWriter("test", alignment: 64)
            .Add("u32", uint.MaxValue).Add("i32", -1).Add("u64", ulong.MaxValue).Add("i64", long.MinValue)
            .Add("f32", 0.1f).Add("f64", 0.1).Add("yes", true).Add("no", false).Add("text", "Ä\n")
            .Add("texts", ["a", "", "c"]).Add("ints", [1, -2]).Add("floats", [0.1f]).Add("none", Array.Empty<string>()));
        GgufMetadata m = file.Metadata;
        Assert.Equal((3u, "test", 64u), (file.Version, file.Architecture, file.Alignment));
        Assert.Equal(15, m.Keys.Count);
        Assert.Equal(uint.MaxValue, m.Integer("u32"));
        Assert.Equal(-1, m.Integer("i32"));
        Assert.Equal(long.MinValue, m.Integer("i64"));
        Assert.Equal((double)0.1f, m.Number("f32"));
        Assert.Equal(0.1, m.Number("f64"));
        Assert.Equal(-1.0, m.Number("i32"));
        Assert.True(m.OptionalBoolean("yes"));
        Assert.False(m.OptionalBoolean("no"));
        Assert.Equal("Ä\n", m.Text("text"));
        Assert.Equal(["a", "", "c"], m.OptionalTexts("texts")!);
        Assert.Equal([1L, -2], m.OptionalIntegers("ints")!);
        Assert.Equal([(double)0.1f], m.OptionalNumbers("floats")!);
        Assert.Equal([], m.OptionalTexts("none")!);
        Assert.Equal([-1L], m.OptionalIntegers("i32")!);
        Assert.Null(m.OptionalText("nothing"));
        Assert.Null(m.OptionalInteger("nothing"));
        Assert.Null(m.OptionalNumber("nothing"));
        Assert.Null(m.OptionalBoolean("nothing"));
        Assert.Null(m.OptionalTexts("nothing"));

        Assert.Equal(ulong.MaxValue.ToString(), m.Preview("u64"));
        Assert.Equal("0.1", m.Preview("f32"));
        Assert.Equal("'Ä\\u000a'", m.Preview("text"));
        Assert.Equal("Int32[2] 1, -2", m.Preview("ints"));

        AssertError("'u64' is 18446744073709551615", () => m.Integer("u64"));
        AssertError("'i32' is -1, it must lie from 0 to 5", () => m.Integer("i32", 0, 5));
        AssertError("'f64' is 0.1, it must be finite and lie from 1 to 2", () => m.Number("f64", 1, 2));
        AssertError("'text' is String, a whole number is needed", () => m.Integer("text"));
        AssertError("'u32' is UInt32, a text is needed", () => m.Text("u32"));
        AssertError("'texts' is an array of 3 String, a text is needed", () => m.Text("texts"));
        AssertError("'text' is String, an array of texts is needed", () => m.OptionalTexts("text"));
        AssertError("'ints' is an array of 2 Int32, an array of texts is needed", () => m.OptionalTexts("ints"));
        AssertError("'u32' is UInt32, true or false is needed", () => m.OptionalBoolean("u32"));
        AssertError("'nothing' is missing", () => m.Text("nothing"));
    }

    [Fact]
    public void TensorsComeBackInTheirShape()
    {
        float[] values = [.. Enumerable.Range(0, 24).Select(i => i / 7f)];
        using GgufFile file = Write(new GgufWriter("test")
            .AddTensor("a", [2, 3, 4], values).AddTensor("row", [1, 5], new float[5]).AddTensor("scalar", [], new[] { 7f })
            .AddHalfTensor("half", [24], values).AddRawTensor("i64", "I64", [1], BitConverter.GetBytes(long.MaxValue)));
        Assert.Equal(["a", "row", "scalar", "half", "i64"], file.Names);
        Assert.Equal([2L, 3, 4], file.Info("a").Shape);
        Assert.Equal([1L, 5], file.Info("row").Shape);
        Assert.Empty(file.Info("scalar").Shape);
        Assert.Equal(values, file.ReadF32("a"));
        Assert.Equal([7f], file.ReadF32("scalar"));
        Assert.Equal(values.Select(v => (float)(Half)v), file.ReadF32("half"));
        Assert.Equal([long.MaxValue], file.ReadI64("i64"));
        Assert.Equal("F16", file.Info("half").Type);
    }

    [Fact]
    public void VersionTwoIsReadOneIsNot()
    {
        string path = _folder.File("x.gguf");
        new GgufWriter("test").AddTensor("a", [2], new[] { 1f, 2f }).Write(path);
        byte[] bytes = File.ReadAllBytes(path);
        bytes[4] = 2;
        File.WriteAllBytes(path, bytes);
        using (GgufFile file = GgufFile.Open(path))
            Assert.Equal([1f, 2f], file.ReadF32("a"));
        bytes[4] = 1;
        File.WriteAllBytes(path, bytes);
        AssertError("version 1 is unknown", () => GgufFile.Open(path));
    }

    [Theory]
    [InlineData(4711, "has the unknown type 4711")]
    [InlineData(31, "has type 31 (Q4_0_4_4), which was removed from ggml; convert the model anew")]
    public void AnUnknownTypeIsNamedWithItsTensorAndNumber(uint type, string says)
    {
        string path = _folder.File("x.gguf");
        const string Name = "blk.0.attn_q.weight";
        new GgufWriter("llama").AddTensor(Name, [2, 32], new float[64]).Write(path);
        byte[] bytes = File.ReadAllBytes(path);
        // Behind the name: the number of dimensions, two of 8 bytes, the type.
        int at = bytes.AsSpan().IndexOf(System.Text.Encoding.ASCII.GetBytes(Name)) + Name.Length + 4 + 16;
        Assert.Equal(0u, BitConverter.ToUInt32(bytes, at));
        BitConverter.TryWriteBytes(bytes.AsSpan(at), type);
        File.WriteAllBytes(path, bytes);
        string message = Assert.Throws<UserErrorException>(() => GgufFile.Open(path)).Message;
        Assert.StartsWith(path, message, StringComparison.Ordinal);
        Assert.Contains(Name, message, StringComparison.Ordinal);
        Assert.Contains(says, message, StringComparison.Ordinal);
    }

    [Fact]
    public void WhatCannotBeWrittenIsRefused()
    {
        var writer = new GgufWriter("test").AddTensor("a", [1], new[] { 1f });
        Assert.Throws<ArgumentException>(() => writer.AddTensor("a", [1], new[] { 1f }));
        Assert.Throws<ArgumentException>(() => writer.AddTensor("b", [2], new[] { 1f }));
        Assert.Throws<ArgumentException>(() => writer.AddTensor("b", [1, 1, 1, 1, 1], new[] { 1f }));
        Assert.Throws<ArgumentException>(() => writer.AddTensor("b", [0], Array.Empty<float>()));
        Assert.Throws<ArgumentException>(() => writer.AddTensor("", [1], new[] { 1f }));
        Assert.Throws<ArgumentException>(() => writer.AddRawTensor("b", "Q8_0", [16, 2], new byte[34]));
        Assert.Throws<ArgumentException>(() => writer.AddRawTensor("b", "BOOL", [1], new byte[1]));
        Assert.Throws<ArgumentException>(() => writer.Add(GgufFile.ArchitectureKey, "again"));
        Assert.Throws<ArgumentException>(() => writer.Add("nul\0", 1));
        Assert.Throws<ArgumentOutOfRangeException>(() => new GgufWriter("test", 48));
        Assert.Contains("70000", Assert.Throws<UserErrorException>(() => writer.AddHalfTensor("b", [1], [70000f])).Message);
    }

    private GgufFile Write(GgufWriter writer)
    {
        string path = _folder.File("x.gguf");
        writer.Write(path);
        return GgufFile.Open(path);
    }

    private static void AssertError(string message, Func<object?> read) => Assert.Contains(message, Assert.Throws<UserErrorException>(read).Message);
}
