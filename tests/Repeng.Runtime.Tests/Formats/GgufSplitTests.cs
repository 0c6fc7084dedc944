using Repeng.Kernels;
using Repeng.Runtime.Formats;
using Repeng.Testing;

namespace Repeng.Runtime.Tests.Formats;

/// <summary>Models in several GGUF files are their parts together; parts that are absent or strangers are named.</summary>
public sealed class GgufSplitTests : IDisposable
{
    private readonly TempFolder _folder = new();

    public void Dispose() => _folder.Dispose();

    [Theory]
    [InlineData(2, false)]
    [InlineData(5, true)]
    [Trait("Category", "Golden")]
    [Trait("Golden", "gguf")]
    public void AGoldenModelInPartsIsTheModel(int parts, bool firstIsEmpty)
    {
        foreach (string path in Directory.GetFiles(Golden.Require("gguf"), "*.gguf"))
        {
            string first = Split(path, Path.GetFileNameWithoutExtension(path), parts, firstIsEmpty);
            using GgufModel whole = GgufModel.Open(path), split = GgufModel.Open(first);
            Assert.Equal(whole.Config.ToJsonString(), split.Config.ToJsonString());
            Assert.Equal(whole.Tokenizer!.Tokens, split.Tokenizer!.Tokens);
            Assert.Equal(whole.Tensors.Names.Order(StringComparer.Ordinal), split.Tensors.Names.Order(StringComparer.Ordinal));
            foreach (string name in whole.Tensors.Names)
            {
                Assert.Equal(whole.Tensors.Info(name).ShapeText, split.Tensors.Info(name).ShapeText);
                Assert.Equal(whole.Tensors.ReadBytes(name), split.Tensors.ReadBytes(name));
                Assert.Equal(whole.Tensors.ReadF32(name), split.Tensors.ReadF32(name));
                Assert.Equal(whole.Tensors.TryMap(name, out MappedBytes a), split.Tensors.TryMap(name, out MappedBytes b));
                Assert.Equal(a.Length, b.Length);
            }
        }
    }

    [Theory]
    [InlineData("second", "is part 2 of 3; give the first one, which holds the metadata: ")]
    [InlineData("renamed", "is the first of 3 parts, and its name does not tell the others")]
    [InlineData("absent", "is the first of 3 parts, and part 3 is not there: ")]
    [InlineData("swapped", "says that it is part 3 of 3, its name part 2 of 3")]
    [InlineData("stranger", "metadata 'split.no' is missing")]
    [InlineData("double", "tensor 't2' is in an earlier part too")]
    [InlineData("count", "its 3 parts should have 7 tensors (split.tensors.count), they have 3")]
    public void PartsThatDoNotFitAreNamed(string fault, string says)
    {
        string Named(int part) => _folder.File($"m-{part:00000}-of-00003.gguf");
        for (int part = 1; part <= 3; part++)
        {
            var writer = new GgufWriter(part == 1 ? "llama" : null);
            if (fault != "stranger" || part != 2)
                writer.Add("split.no", (uint)(fault == "swapped" && part == 2 ? 2 : part - 1)).Add("split.count", 3u).Add("split.tensors.count", fault == "count" ? 7 : 3);
            writer.AddTensor($"t{(fault == "double" && part == 3 ? 2 : part)}", [2], new float[2]).Write(Named(part));
        }
        string path = Named(fault == "second" ? 2 : 1);
        if (fault == "absent")
            File.Delete(Named(3));
        if (fault == "renamed")
            File.Move(path, path = _folder.File("other.gguf"));
        string message = Assert.Throws<UserErrorException>(() => GgufFile.OpenWhole(path)).Message;
        Assert.StartsWith(_folder.Root, message, StringComparison.Ordinal);
        Assert.Contains(says, message, StringComparison.Ordinal);
        // No part is held open.
        foreach (string file in Directory.GetFiles(_folder.Root))
            File.Delete(file);
    }

    private string Split(string path, string stem, int parts, bool firstIsEmpty)
    {
        using GgufFile source = GgufFile.Open(path);
        string Named(int part) => _folder.File($"{stem}-{part + 1:00000}-of-{parts:00000}.gguf");
        for (int part = 0; part < parts; part++)
        {
            var writer = new GgufWriter(null);
            foreach (string key in part == 0 ? source.Metadata.Keys : [])
                writer.Copy(source.Metadata, key);
            writer.Add("split.no", (uint)part).Add("split.count", (uint)parts).Add("split.tensors.count", source.Names.Count);
            int skipped = firstIsEmpty ? 1 : 0;
            for (int i = 0; i < source.Names.Count; i++)
                if (part == skipped + i % (parts - skipped))
                    writer.AddRawTensor(source.Names[i], source.Info(source.Names[i]).Type, source.Info(source.Names[i]).Shape, source.ReadBytes(source.Names[i]));
            writer.Write(Named(part));
        }
        return Named(0);
    }
}
