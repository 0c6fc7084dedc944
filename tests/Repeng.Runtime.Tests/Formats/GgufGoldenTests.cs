using Repeng.Kernels.Quantised;
using Repeng.Runtime.Formats;
using Repeng.Testing;

namespace Repeng.Runtime.Tests.Formats;

/// <summary>GGUF files of the golden folders: hostile ones, every block type, whole files written again byte for byte.</summary>
[Trait("Category", "Golden")]
[Trait("Golden", "gguf")]
public sealed class GgufGoldenTests
{
    private const string Absent = "absent";

    public static TheoryData<string> HostileFiles() => Hostile.Files(".gguf");

    public static TheoryData<string> BlockTypes()
    {
        var rows = new TheoryData<string>();
        string list = Golden.Path("gguf", "blocks.json");
        if (File.Exists(list))
            foreach ((string type, _) in JsonFile.ReadObject(list).Object("types").Json)
                rows.Add(type);
        if (rows.Count == 0)
            rows.Add(Absent);
        return rows;
    }

    public static TheoryData<string> GoldenFiles()
    {
        var rows = new TheoryData<string>();
        if (Directory.Exists(Golden.Root))
            foreach (string path in Directory.EnumerateFiles(Golden.Root, "*.gguf", SearchOption.AllDirectories).Order(StringComparer.Ordinal))
                if (!path.Contains($"{Path.DirectorySeparatorChar}hostile{Path.DirectorySeparatorChar}", StringComparison.Ordinal))
                    rows.Add(Path.GetRelativePath(Golden.Root, path));
        if (rows.Count == 0)
            rows.Add(Absent);
        return rows;
    }

    [Theory]
    [MemberData(nameof(HostileFiles))]
    public void HostileFileIsJudgedAsListed(string file) => Hostile.Check(file, GgufFile.Open);

    [Theory]
    [MemberData(nameof(BlockTypes))]
    public void BlocksDecodeBitEqualAndEncodeByteEqual(string type)
    {
        string folder = Golden.Require("gguf");
        Assert.SkipWhen(type == Absent, "golden data absent: the folder has no such file");
        JsonFields facts = JsonFile.ReadObject(Path.Combine(folder, "blocks.json")).Object("types").Object(type);
        StorageType storage = StorageType.Find(type)!;
        Assert.NotNull(storage);
        Assert.Equal(facts.Integer("ggml_type"), (long)storage.GgmlId!.Value);
        Assert.Same(storage, StorageType.FindGgml(storage.GgmlId.Value));
        Assert.Equal((facts.Int32("block_size"), facts.Int32("type_size")), (storage.BlockElements, storage.BlockBytes));

        using SafetensorsFile blocks = SafetensorsFile.Open(Path.Combine(folder, "blocks.safetensors"));
        using var temp = new TempFolder();
        foreach ((string bytes, string values) in new[] { ("raw", "raw_dequant"), ("encoded", "encoded_dequant"), ("encoded_by_c", "encoded_by_c_dequant") })
        {
            if (!blocks.Contains($"{type}.{bytes}"))
                continue;
            TensorInfo expected = blocks.Info($"{type}.{values}");
            string path = temp.File($"{bytes}.gguf");
            new GgufWriter("test").AddRawTensor("t", type, expected.Shape, blocks.ReadBytes($"{type}.{bytes}")).Write(path);
            using GgufFile file = GgufFile.Open(path);
            Assert.Equal((type, expected.ShapeText), (file.Info("t").Type, file.Info("t").ShapeText));
            Assert.True(storage.CanReadF32, $"{type} cannot be decoded");
            AssertBits(blocks.ReadF32($"{type}.{values}"), file.ReadF32("t"), $"{type}.{bytes}");
        }

        bool known = facts.Json["package_can_encode"]!.GetValue<bool>();
        Assert.True(!known || storage.Block!.CanEncode, $"{type} cannot be encoded");
        if (known)
            AssertEncoded(type, storage.Block!, blocks.ReadF32($"{type}.source"), blocks.ReadBytes($"{type}.encoded"));
    }

    private static unsafe void AssertEncoded(string type, BlockType blocks, float[] source, byte[] expected)
    {
        var actual = new byte[blocks.SizeOf(source.Length)];
        fixed (float* from = source)
        fixed (byte* to = actual)
            blocks.Encode(from, to, source.Length);
        Assert.Equal(expected.Length, actual.Length);
        int at = expected.AsSpan().CommonPrefixLength(actual);
        Assert.True(at == actual.Length, at == actual.Length ? "" : $"{type}: byte {at} (block {at / blocks.Bytes}, byte {at % blocks.Bytes} of it) is {actual[at]}, expected {expected[at]}");
    }

    [Theory]
    [MemberData(nameof(GoldenFiles))]
    public void FileWrittenAgainHasTheSameBytes(string name)
    {
        string root = Golden.Require();
        Assert.SkipWhen(name == Absent, $"golden data absent: no GGUF file below {root}");
        string path = Path.Combine(root, name);
        using GgufFile file = GgufFile.Open(path);
        var writer = new GgufWriter(null, file.Alignment);
        foreach (string key in file.Metadata.Keys)
        {
            Assert.NotEmpty(file.Metadata.Preview(key));
            writer.Copy(file.Metadata, key);
        }
        foreach (string tensor in file.Names)
        {
            TensorInfo info = file.Info(tensor);
            Assert.Equal(info.Elements, file.ReadF32(tensor).Length);
            writer.AddRawTensor(tensor, info.Type, info.Shape, file.ReadBytes(tensor));
        }
        using var temp = new TempFolder();
        writer.Write(temp.File("again.gguf"));
        Assert.True(File.ReadAllBytes(path).AsSpan().SequenceEqual(File.ReadAllBytes(temp.File("again.gguf"))), $"{name} differs when it is written again");
    }

    [Fact]
    public void EveryRealModelConverts()
    {
        string folder = Golden.RequireBeside("models");
        string[] files = Directory.GetFiles(folder, "*.gguf", SearchOption.AllDirectories);
        Assert.SkipUnless(files.Length > 0, $"golden data absent: no GGUF file below {folder}");
        foreach (string path in files)
        {
            using GgufFile file = GgufFile.Open(path);
            foreach (string tensor in file.Names)
            {
                float[] values = file.ReadF32(tensor);
                Assert.DoesNotContain(values, v => !float.IsFinite(v));
                Assert.Contains(values, v => v != 0);
            }
        }
    }

    private static void AssertBits(float[] expected, float[] actual, string what)
    {
        Assert.Equal(expected.Length, actual.Length);
        for (int i = 0; i < expected.Length; i++)
            if (BitConverter.SingleToUInt32Bits(expected[i]) != BitConverter.SingleToUInt32Bits(actual[i]))
                Assert.Fail($"{what}[{i}]: {actual[i]:r} (0x{BitConverter.SingleToUInt32Bits(actual[i]):x8}), expected {expected[i]:r} (0x{BitConverter.SingleToUInt32Bits(expected[i]):x8})");
    }
}
