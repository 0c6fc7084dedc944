using System.Buffers.Binary;
using System.IO.Compression;
using Repeng.Kernels;
using Xunit;

namespace Repeng.Cli.Tests;

/// <summary>Parts behind the code of a program of one file, laid out as Native/parts.sh does it.</summary>
public sealed class ProgramPartsTests : IDisposable
{
    private readonly string _folder = Directory.CreateTempSubdirectory().FullName;

    public void Dispose() => Directory.Delete(_folder, recursive: true);

    [Fact]
    public void Parts_are_unpacked_once_into_a_folder_of_their_hash()
    {
        string program = Program(Zip(("models/demo/config.json", "{}"), ("libX.so", "x")));
        Assert.True(ProgramParts.Carries(program));
        string cache = Path.Combine(_folder, "cache");
        string folder = ProgramParts.Unpack(program, cache);
        Assert.Equal("{}", File.ReadAllText(Path.Combine(folder, "models", "demo", "config.json")));
        File.WriteAllText(Path.Combine(folder, "libX.so"), "kept");
        Assert.Equal(folder, ProgramParts.Unpack(program, cache));
        Assert.Equal("kept", File.ReadAllText(Path.Combine(folder, "libX.so")));
        Assert.NotEqual(folder, ProgramParts.Unpack(Program(Zip(("libX.so", "other"))), cache));
    }

    [Fact]
    public void Damaged_parts_and_a_closed_cache_are_one_clear_error()
    {
        var e = Assert.Throws<UserErrorException>(() => ProgramParts.Unpack(Program([1, 2, 3, 4]), Path.Combine(_folder, "cache")));
        Assert.Contains("XDG_CACHE_HOME", e.Message);
        string file = Path.Combine(_folder, "a-file");
        File.WriteAllText(file, "");
        Assert.Throws<UserErrorException>(() => ProgramParts.Unpack(Program(Zip(("libX.so", "x"))), Path.Combine(file, "cache")));
        Assert.Throws<UserErrorException>(() => ProgramParts.Unpack(file, _folder));
    }

    [Theory]
    [InlineData(0)]
    [InlineData(-1)]
    [InlineData(1 << 20)]
    [InlineData(long.MaxValue)]
    public void A_length_that_cannot_be_carries_nothing(long length) => Assert.False(ProgramParts.Carries(Program(new byte[10], length)));

    private string Program(byte[] zip, long? length = null)
    {
        string path = Path.Combine(_folder, Path.GetRandomFileName());
        var tail = new byte[8];
        BinaryPrimitives.WriteInt64LittleEndian(tail, length ?? zip.Length);
        File.WriteAllBytes(path, [.. "code"u8, .. zip, .. tail, .. ProgramParts.Mark]);
        return path;
    }

    private static byte[] Zip(params (string Name, string Text)[] files)
    {
        var bytes = new MemoryStream();
        using (var zip = new ZipArchive(bytes, ZipArchiveMode.Create, leaveOpen: true))
            foreach ((string name, string text) in files)
            {
                using var writer = new StreamWriter(zip.CreateEntry(name).Open());
                writer.Write(text);
            }
        return bytes.ToArray();
    }
}
