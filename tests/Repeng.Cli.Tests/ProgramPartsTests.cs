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
        string another = Path.Combine(folder, "another");
        File.WriteAllText(another, "of the person");
        Assert.Equal(folder, ProgramParts.Unpack(program, cache));
        Assert.True(File.Exists(another), "whole parts were unpacked a second time");
        Assert.NotEqual(folder, ProgramParts.Unpack(Program(Zip(("libX.so", "other"))), cache));
    }

    [Theory]
    [InlineData("")]
    [InlineData("sho")]
    [InlineData("wrong")]
    [InlineData("longer")]
    [InlineData(null)]
    public void What_was_damaged_in_the_cache_is_unpacked_again(string? content)
    {
        string program = Program(Zip(("models/demo/config.json", "{}"), ("libX.so", "right")));
        string cache = Path.Combine(_folder, "cache");
        string library = Path.Combine(ProgramParts.Unpack(program, cache), "libX.so");
        if (content is null)
            File.Delete(library);
        else
            File.WriteAllText(library, content);
        ProgramParts.Unpack(program, cache);
        Assert.Equal("right", File.ReadAllText(library));
        Assert.Single(Directory.GetFileSystemEntries(cache));
    }

    [Fact]
    public void A_file_in_the_place_of_an_unpacked_folder_is_unpacked_again()
    {
        string program = Program(Zip(("models/demo/config.json", "{}")));
        string cache = Path.Combine(_folder, "cache");
        string demo = Path.Combine(ProgramParts.Unpack(program, cache), "models", "demo");
        Directory.Delete(demo, recursive: true);
        File.WriteAllText(demo, "");
        ProgramParts.Unpack(program, cache);
        Assert.Equal("{}", File.ReadAllText(Path.Combine(demo, "config.json")));
    }

    [Fact]
    public void Damaged_parts_are_one_clear_error_and_leave_nothing_in_the_cache()
    {
        string cache = Path.Combine(_folder, "cache");
        byte[] flipped = Zip(("libX.so", "stored as it is"));
        int at = flipped.AsSpan().IndexOf("stored as it is"u8);
        flipped[at] ^= 1;
        foreach (byte[] zip in new byte[][] { [1, 2, 3, 4], flipped })
        {
            var e = Assert.Throws<UserErrorException>(() => ProgramParts.Unpack(Program(zip), cache));
            Assert.Contains("damaged", e.Message);
            Assert.DoesNotContain("XDG_CACHE_HOME", e.Message);
        }
        Assert.Empty(Directory.Exists(cache) ? Directory.GetFileSystemEntries(cache) : []);
        string file = Path.Combine(_folder, "a-file");
        File.WriteAllText(file, "");
        Assert.Contains("carries no parts", Assert.Throws<UserErrorException>(() => ProgramParts.Unpack(file, _folder)).Message);
    }

    [Fact]
    public void A_cache_that_cannot_be_written_is_one_line_that_names_the_variable()
    {
        string file = Path.Combine(_folder, "a-file"), program = Program(Zip(("libX.so", "x")));
        File.WriteAllText(file, "");
        AssertAdvice(Path.Combine(file, "cache"));
        // A file where the folder would lie.
        string cache = Path.Combine(_folder, "cache"), folder = ProgramParts.Unpack(program, cache);
        Directory.Delete(folder, recursive: true);
        File.WriteAllText(folder, "");
        AssertAdvice(cache);
        // A folder without permission; root may write to any but the kernel's own.
        if (OperatingSystem.IsLinux())
            AssertAdvice("/proc/self");

        void AssertAdvice(string closed)
        {
            var e = Assert.Throws<UserErrorException>(() => ProgramParts.Unpack(program, closed));
            Assert.Contains($"into {closed} (", e.Message);
            Assert.Contains("set XDG_CACHE_HOME to a folder that can be written", e.Message);
            Assert.DoesNotContain('\n', e.Message);
        }
    }

    [Fact]
    public void A_program_that_cannot_be_read_is_one_clear_error()
    {
        // What a mode of 0711 is to others, a missing file is to everybody.
        string program = Path.Combine(_folder, "missing");
        foreach (Action read in new Action[] { () => ProgramParts.Carries(program), () => ProgramParts.Unpack(program, _folder) })
            Assert.Contains("cannot be read", Assert.Throws<UserErrorException>(read).Message);
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
                using var writer = new StreamWriter(zip.CreateEntry(name, CompressionLevel.NoCompression).Open());
                writer.Write(text);
            }
        return bytes.ToArray();
    }
}
