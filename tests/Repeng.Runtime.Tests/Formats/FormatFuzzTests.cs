using System.Text;
using Repeng.Kernels;
using Repeng.Runtime.Formats;

namespace Repeng.Runtime.Tests.Formats;

/// <summary>
/// Damaged files: cut at every byte, every byte changed, random damage. A reader may accept what is still a valid file;
/// otherwise it throws <see cref="UserErrorException"/> with a one-line message that begins with the path, and nothing else.
/// </summary>
public sealed class FormatFuzzTests : IDisposable
{
    private readonly TempFolder _folder = new();

    public void Dispose() => _folder.Dispose();

    [Fact]
    public void Safetensors()
    {
        string path = _folder.File("x.safetensors");
        new SafetensorsWriter().SetMetadata("format", "pt")
            .Add("weight", [2, 3], new float[6]).Add("ids", [2], new long[2]).AddRaw("h", "BF16", [1], new byte[2]).Write(path);
        Damage(path, SafetensorsFile.Open);
    }

    [Fact]
    public void Gguf()
    {
        string path = _folder.File("x.gguf");
        new GgufWriter("llama", 64).Add("a.text", "é").Add("a.texts", ["x", "yz"]).Add("a.flag", true).Add("a.ints", [1, 2])
            .AddTensor("t", [2, 3], new float[6]).AddRawTensor("q", "Q8_0", [1, 32], new byte[34]).AddHalfTensor("h", [1], [1f]).Write(path);
        Damage(path, p =>
        {
            GgufFile file = GgufFile.Open(p);
            try
            {
                foreach (string key in file.Metadata.Keys)
                    file.Metadata.Preview(key);
                return file;
            }
            catch
            {
                file.Dispose();
                throw;
            }
        });
    }

    [Fact]
    public void GgufLlamaModel()
    {
        string path = _folder.File("x.gguf");
        GgufModelTests.Model(bias: true).Add("tokenizer.ggml.model", "gpt2").Add("tokenizer.ggml.tokens", ["a", "b", "c", "d", "e"])
            .Add("tokenizer.ggml.merges", ["a b"]).Add("tokenizer.ggml.token_type", [1, 1, 1, 1, 3]).Add("tokenizer.ggml.eos_token_id", 4u)
            .Add("llama.rope.scaling.type", "yarn").Add("llama.rope.scaling.factor", 4f).Add("llama.rope.scaling.original_context_length", 8u)
            .Write(path);
        // The header alone: damage to weights changes numbers, not the reader's way.
        int header = File.ReadAllBytes(path).AsSpan().LastIndexOf("output_norm.weight"u8) + 60;
        Damage(path, p =>
        {
            GgufModel model = GgufModel.Open(p);
            Assert.NotEmpty(model.Config.ToJsonString());
            return model.Tensors;
        }, header);
    }

    [Fact]
    public void ShardIndex()
    {
        new SafetensorsWriter().Add("a", [1], new[] { 1f }).Write(_folder.File("one.safetensors"));
        string path = _folder.File(ShardedSafetensors.IndexName, Encoding.UTF8.GetBytes("""{"metadata":{"total_size":4},"weight_map":{"a":"one.safetensors"}}"""));
        Damage(path, ShardedSafetensors.OpenModel, pathInMessage: _folder.Root);
    }

    private static void Damage(string path, Func<string, ITensorSource> open, int? upTo = null, string? pathInMessage = null)
    {
        byte[] good = File.ReadAllBytes(path);
        int length = upTo ?? good.Length, accepted = 0, refused = 0;
        Assert.True(Survives(), "the undamaged file is refused");

        for (int cut = 0; cut < good.Length; cut++)
        {
            File.WriteAllBytes(path, good.AsSpan(0, cut));
            Count(Survives());
        }
        // No shortened file may pass but one that lacks only padding behind the last tensor.
        Assert.True(accepted < 64, $"{accepted} shortened files are accepted");

        File.WriteAllBytes(path, good);
        for (int at = 0; at < length; at++)
            foreach (byte value in new[] { (byte)(good[at] ^ 1), (byte)0xFF })
                if (value != good[at])
                {
                    Patch(at, value);
                    Count(Survives());
                    Patch(at, good[at]);
                }

        var random = new Random(20);
        for (int round = 0; round < 500; round++)
        {
            byte[] bad = (byte[])good.Clone();
            for (int n = random.Next(1, 6); n > 0; n--)
                bad[random.Next(length)] = (byte)random.Next(256);
            if (random.Next(2) == 0)
            {
                // Whole pieces moved: lengths and types then stand where others were.
                int size = random.Next(1, 9), from = random.Next(length - size), to = random.Next(length - size);
                good.AsSpan(from, size).CopyTo(bad.AsSpan(to));
            }
            File.WriteAllBytes(path, bad);
            Count(Survives());
        }
        Assert.True(refused > 300, $"only {refused} damaged files are refused");
        TestContext.Current.TestOutputHelper?.WriteLine($"{accepted} accepted, {refused} refused");

        void Count(bool survives) => _ = survives ? accepted++ : refused++;

        void Patch(int at, byte value)
        {
            using var stream = new FileStream(path, FileMode.Open, FileAccess.Write, FileShare.None, 0);
            stream.Position = at;
            stream.WriteByte(value);
        }

        bool Survives()
        {
            try
            {
                using ITensorSource source = open(path);
                foreach (string name in source.Names)
                    ReadAll(source, source.Info(name));
                return true;
            }
            catch (UserErrorException e)
            {
                Assert.StartsWith(pathInMessage ?? path, e.Message);
                Assert.DoesNotContain(e.Message, char.IsControl);
                return false;
            }
        }
    }

    private static void ReadAll(ITensorSource source, TensorInfo info)
    {
        Assert.True(info.Bytes < 1 << 20, $"{info.Name} has {info.Bytes} bytes in a file of some hundred");
        Assert.Equal(info.Bytes, source.ReadBytes(info.Name).Length);
        try
        {
            Assert.Equal(info.Elements, source.ReadF32(info.Name).Length);
        }
        catch (UserErrorException e)
        {
            // A changed type may be one that has no conversion.
            Assert.Contains("cannot be converted", e.Message);
        }
    }
}
