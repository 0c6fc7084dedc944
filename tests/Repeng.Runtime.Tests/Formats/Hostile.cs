using System.Text.Json.Nodes;
using Repeng.Kernels;
using Repeng.Runtime.Formats;
using Repeng.Testing;

namespace Repeng.Runtime.Tests.Formats;

/// <summary>What hostile.json says about each file, and the check against it.</summary>
internal static class Hostile
{
    private const string Absent = "absent";

    // What a reader may allocate for a file that it refuses, beyond a few times the file itself.
    private const long MostBytes = 4 << 20;

    /// <summary>File names of one extension; a single row "absent" where there are none.</summary>
    public static TheoryData<string> Files(string extension)
    {
        var rows = new TheoryData<string>();
        string list = Golden.Path("gguf", "hostile", "hostile.json");
        if (File.Exists(list))
            foreach (JsonNode? entry in JsonFile.ReadObject(list).OptionalArray("files")!)
                if (entry!["file"]!.GetValue<string>() is var file && file.EndsWith(extension, StringComparison.Ordinal))
                    rows.Add(file);
        if (rows.Count == 0)
            rows.Add(Absent);
        return rows;
    }

    /// <summary>Opens, reads every tensor, and compares with the expectation.</summary>
    public static void Check(string file, Func<string, ITensorSource> open)
    {
        string folder = Golden.Require("gguf", "hostile");
        Assert.SkipWhen(file == Absent, "golden data absent: the folder has no such file");
        JsonNode entry = JsonFile.ReadObject(Path.Combine(folder, "hostile.json")).OptionalArray("files")!
            .Single(e => e!["file"]!.GetValue<string>() == file)!;
        string expected = entry["expected"]!.GetValue<string>();
        bool mayFail = expected.StartsWith("error", StringComparison.Ordinal);
        bool mayLoad = expected.StartsWith("loads", StringComparison.Ordinal) || expected.Contains(" or ", StringComparison.Ordinal);
        Assert.True(mayFail || mayLoad, $"expectation not understood: {expected}");

        string path = Path.Combine(folder, file);
        long before = GC.GetAllocatedBytesForCurrentThread();
        try
        {
            using ITensorSource source = open(path);
            Assert.True(mayLoad, $"{file} loads, although {entry["wrong"]}");
            foreach (string name in source.Names)
                Assert.Equal(source.Info(name).Elements, source.ReadF32(name).Length);
        }
        catch (UserErrorException e)
        {
            long allocated = GC.GetAllocatedBytesForCurrentThread() - before;
            Assert.True(mayFail, $"{file} is refused, although {entry["wrong"]}: {e.Message}");
            Assert.Contains(path, e.Message);
            Assert.DoesNotContain('\n', e.Message);
            Assert.True(e.Message.Length > path.Length + 20, $"the message says too little: {e.Message}");
            Assert.True(allocated < MostBytes, $"{file}: {allocated} bytes allocated before it was refused");
            TestContext.Current.TestOutputHelper?.WriteLine(e.Message);
        }
    }
}
