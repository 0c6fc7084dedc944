using Repeng.Runtime.Formats;
using Repeng.Testing;

namespace Repeng.Runtime.Tests.Formats;

/// <summary>Every safetensors file of the golden folders opens; hostile ones are refused.</summary>
[Trait("Category", "Golden")]
[Trait("Golden", "gguf")]
public sealed class SafetensorsGoldenTests
{
    public static TheoryData<string> HostileFiles() => Hostile.Files(".safetensors");

    [Theory]
    [MemberData(nameof(HostileFiles))]
    public void HostileFileIsJudgedAsListed(string file) => Hostile.Check(file, ShardedSafetensors.OpenModel);

    [Fact]
    public void EveryGoldenFileOpensAndConverts()
    {
        string root = Golden.Require();
        int files = 0, tensors = 0;
        foreach (string path in Directory.EnumerateFiles(root, "*.safetensors", SearchOption.AllDirectories))
        {
            if (path.Contains($"{Path.DirectorySeparatorChar}hostile{Path.DirectorySeparatorChar}", StringComparison.Ordinal))
                continue;
            using SafetensorsFile source = SafetensorsFile.Open(path);
            foreach (string name in source.Names)
            {
                TensorInfo info = source.Info(name);
                double[] wide = source.ReadF64(name);
                float[] narrow = source.ReadF32(name);
                Assert.Equal(info.Shape.Aggregate(1L, (a, b) => a * b), wide.LongLength);
                for (int i = 0; i < wide.Length; i++)
                    if (!narrow[i].Equals((float)wide[i]))
                        Assert.Fail($"{path}: {name}[{i}]: fp32 {narrow[i]:r}, fp64 {wide[i]:r}");
                tensors++;
            }
            files++;
        }
        Assert.SkipUnless(files > 0, $"golden data absent: no safetensors file below {root}");
        TestContext.Current.TestOutputHelper?.WriteLine($"{files} files, {tensors} tensors");
    }
}
