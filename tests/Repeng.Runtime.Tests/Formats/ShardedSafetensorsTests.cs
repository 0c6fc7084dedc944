using System.Buffers.Binary;
using System.Text;
using Repeng.Kernels;
using Repeng.Runtime.Formats;

namespace Repeng.Runtime.Tests.Formats;

/// <summary>Reading through an index of shards.</summary>
public sealed class ShardedSafetensorsTests : IDisposable
{
    private readonly TempFolder _folder = new();

    public void Dispose() => _folder.Dispose();

    [Fact]
    public void ReadsTensorsFromEveryShard()
    {
        WriteShard("model-00001-of-00002.safetensors", "a", 1f, 2f);
        WriteShard("model-00002-of-00002.safetensors", "b", 3f);
        WriteIndex("""{"metadata":{"total_size":12},"weight_map":{"a":"model-00001-of-00002.safetensors","b":"model-00002-of-00002.safetensors"}}""");
        using ITensorSource source = ShardedSafetensors.OpenModel(_folder.Root);
        Assert.Equal(["a", "b"], source.Names);
        Assert.Equal([1f, 2f], source.ReadF32("a"));
        Assert.Equal([3f], source.ReadF32("b"));
    }

    [Theory]
    [InlineData("""{"weight_map":{"a":"../x.safetensors"}}""", "no file name beside the index")]
    [InlineData("""{"weight_map":{"a":"/etc/passwd"}}""", "no file name beside the index")]
    [InlineData("""{"weight_map":{"a":".."}}""", "no file name beside the index")]
    [InlineData("""{"weight_map":{"a":""}}""", "no file name beside the index")]
    [InlineData("""{"weight_map":{"a":5}}""", "a text is needed")]
    [InlineData("""{"weight_map":{"a":"nowhere.safetensors"}}""", "there is no such file")]
    [InlineData("""{"weight_map":{"c":"one.safetensors"}}""", "does not hold it")]
    [InlineData("""{"weight_map":[]}""", "an object is needed")]
    [InlineData("{}", "'weight_map' is missing")]
    [InlineData("[]", "no object")]
    [InlineData("{", "not valid JSON")]
    public void RefusesABadIndex(string index, string message)
    {
        WriteShard("one.safetensors", "a", 1f);
        WriteIndex(index);
        var e = Assert.Throws<UserErrorException>(() => ShardedSafetensors.OpenModel(_folder.Root));
        Assert.Contains(message, e.Message);
    }

    [Fact]
    public void RefusesAFolderWithoutTensors()
    {
        var e = Assert.Throws<UserErrorException>(() => ShardedSafetensors.OpenModel(_folder.Root));
        Assert.Contains("model.safetensors.index.json", e.Message);
        _folder.File("pytorch_model.bin", [1]);
        Assert.Contains("pytorch_model.bin: pickled weights are programs", Assert.Throws<UserErrorException>(() => ShardedSafetensors.OpenModel(_folder.Root)).Message);
    }

    [Fact]
    public void AMissingTensorNamesTheNearest()
    {
        WriteShard("model.safetensors", "model.norm.weight", 1f);
        using ITensorSource source = ShardedSafetensors.OpenModel(_folder.Root);
        var e = Assert.Throws<UserErrorException>(() => source.ReadF32("model.norms.weight"));
        Assert.Contains("'model.norm.weight'", e.Message);
    }

    private void WriteIndex(string json) => _folder.File(ShardedSafetensors.IndexName, Encoding.UTF8.GetBytes(json));

    private void WriteShard(string file, string tensor, params float[] values)
    {
        byte[] header = Encoding.UTF8.GetBytes($$"""{ "{{tensor}}":{"dtype":"F32","shape":[{{values.Length}}],"data_offsets":[0,{{values.Length * 4}}] } }""");
        var bytes = new byte[8 + header.Length + values.Length * 4];
        BinaryPrimitives.WriteInt64LittleEndian(bytes, header.Length);
        header.CopyTo(bytes, 8);
        Buffer.BlockCopy(values, 0, bytes, 8 + header.Length, values.Length * 4);
        _folder.File(file, bytes);
    }
}
