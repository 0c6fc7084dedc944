using Repeng.Kernels;
using Repeng.Runtime.Formats;

namespace Repeng.Runtime.Tests.Formats;

/// <summary>A target shows the old or the whole new content, and nothing stays behind on failure.</summary>
public sealed class AtomicFileTests : IDisposable
{
    private readonly TempFolder _folder = new();

    public void Dispose() => _folder.Dispose();

    [Fact]
    public void WritesAndReplaces()
    {
        string path = _folder.File("made/on/the/way.txt");
        AtomicFile.WriteText(path, "first");
        AtomicFile.WriteText(path, "second");
        Assert.Equal("second", File.ReadAllText(path));
        Assert.Equal([path], Directory.GetFileSystemEntries(Path.GetDirectoryName(path)!));
    }

    [Fact]
    public void TheTargetStaysAsItWasUntilTheEnd()
    {
        string path = _folder.File("a", "old"u8);
        AtomicFile.Write(path, stream =>
        {
            stream.Write("new"u8);
            stream.Flush();
            Assert.Equal("old", File.ReadAllText(path));
        });
        Assert.Equal("new", File.ReadAllText(path));
    }

    [Theory]
    [InlineData(true)]
    [InlineData(false)]
    public void AFailureInTheMiddleLeavesTheOldFileAndNothingElse(bool existed)
    {
        string path = _folder.File("a");
        if (existed)
            File.WriteAllText(path, "old");
        Assert.Throws<InvalidOperationException>(() => AtomicFile.Write(path, stream =>
        {
            stream.Write(new byte[100_000]);
            throw new InvalidOperationException("in the middle");
        }));
        Assert.Equal(existed ? [path] : [], Directory.GetFileSystemEntries(_folder.Root));
        if (existed)
            Assert.Equal("old", File.ReadAllText(path));
    }

    [Fact]
    public void AFullDiskIsSaidWithPathAndBytes()
    {
        Assert.SkipUnless(File.Exists("/dev/full"), "the system has no /dev/full to fail on");
        string path = _folder.File("a");
        var e = Assert.Throws<UserErrorException>(() => AtomicFile.Write(path, stream =>
        {
            stream.Write(new byte[1234]);
            stream.Flush();
            using var full = new FileStream("/dev/full", FileMode.Open, FileAccess.Write, FileShare.ReadWrite, 0);
            full.Write(new byte[8]);
        }));
        Assert.StartsWith(path, e.Message);
        Assert.Contains("no space left on the disk after 1234 bytes", e.Message);
        Assert.Empty(Directory.GetFileSystemEntries(_folder.Root));
    }

    [Fact]
    public void TooLittleSpaceIsFoundBeforeAnythingIsWritten()
    {
        string path = _folder.File("a");
        const long Huge = 1L << 60;
        var e = Assert.Throws<UserErrorException>(() => AtomicFile.Write(path, _ => Assert.Fail("must not begin"), expectedBytes: Huge));
        Assert.StartsWith(path, e.Message);
        Assert.Contains(Huge.ToString(), e.Message);
        e = Assert.Throws<UserErrorException>(() => AtomicFile.WriteFolder(path, _ => Assert.Fail("must not begin"), expectedBytes: Huge));
        Assert.Contains(Huge.ToString(), e.Message);
        Assert.Empty(Directory.GetFileSystemEntries(_folder.Root));
    }

    [Fact]
    public void RefusesWhatIsNoPlaceForAFile()
    {
        string path = _folder.File("a", "old"u8);
        Assert.Contains("exists already", Refusal(path, overwrite: false));
        Assert.Contains("is a folder", Refusal(_folder.Root));
        Assert.Contains("cannot be written", Refusal(Path.Combine(path, "below-a-file")));
        Assert.Contains("without a name", Refusal(""));
        if (OperatingSystem.IsLinux())
            Assert.Contains("no place for a file", Refusal("/dev/null"));
        Assert.Equal("old", File.ReadAllText(path));

        static string Refusal(string path, bool overwrite = true) =>
            Assert.Throws<UserErrorException>(() => AtomicFile.Write(path, _ => { }, overwrite)).Message;
    }

    [Fact]
    public void AFileSystemInMemoryTakesFiles()
    {
        Assert.SkipUnless(Directory.Exists("/dev/shm"), "the system has no /dev/shm");
        string path = $"/dev/shm/repeng-test-{Guid.NewGuid():N}";
        try
        {
            AtomicFile.WriteText(path, "x");
            Assert.Equal("x", File.ReadAllText(path));
        }
        finally
        {
            File.Delete(path);
        }
    }

    [Fact]
    public void ASymbolicLinkStaysALink()
    {
        string target = _folder.File("target", "old"u8), link = _folder.File("link");
        File.CreateSymbolicLink(link, target);
        AtomicFile.WriteText(link, "new");
        Assert.Equal("new", File.ReadAllText(target));
        Assert.Equal(target, new FileInfo(link).LinkTarget);
    }

    [Fact]
    public void AFolderAppearsWhole()
    {
        string target = _folder.File("runs/one");
        AtomicFile.WriteFolder(target, temp =>
        {
            Assert.False(Directory.Exists(target));
            Directory.CreateDirectory(Path.Combine(temp, "inner"));
            File.WriteAllText(Path.Combine(temp, "inner", "a"), "x");
            File.WriteAllText(Path.Combine(temp, "b"), "y");
        });
        Assert.Equal("x", File.ReadAllText(Path.Combine(target, "inner", "a")));
        Assert.Equal("y", File.ReadAllText(Path.Combine(target, "b")));
        Assert.Single(Directory.GetFileSystemEntries(_folder.File("runs")));
    }

    [Fact]
    public void AnExistingFolderIsAnErrorUnlessToldOtherwise()
    {
        string target = _folder.File("out") + Path.DirectorySeparatorChar;
        Directory.CreateDirectory(target);
        Assert.Contains("exists already", Assert.Throws<UserErrorException>(() => AtomicFile.RequireFolderFree(target)).Message);
        Assert.Contains("exists already", Assert.Throws<UserErrorException>(() => AtomicFile.WriteFolder(target, _ => Assert.Fail("must not begin"))).Message);
        File.WriteAllText(Path.Combine(target, "old"), "");

        AtomicFile.WriteFolder(target, temp => File.WriteAllText(Path.Combine(temp, "new"), ""), overwrite: true);
        Assert.Equal(["new"], Directory.GetFiles(target).Select(Path.GetFileName));
        Assert.Single(Directory.GetFileSystemEntries(_folder.Root));

        string file = _folder.File("file", ""u8);
        Assert.Contains("is a file", Assert.Throws<UserErrorException>(() => AtomicFile.WriteFolder(file, _ => { }, overwrite: true)).Message);
    }

    [Theory]
    [InlineData(true)]
    [InlineData(false)]
    public void AFolderThatFailsInTheMiddleLeavesTheOldOne(bool existed)
    {
        string target = _folder.File("out");
        if (existed)
        {
            Directory.CreateDirectory(target);
            File.WriteAllText(Path.Combine(target, "old"), "");
        }
        Assert.Throws<UserErrorException>(() => AtomicFile.WriteFolder(target, temp =>
        {
            File.WriteAllText(Path.Combine(temp, "half"), "");
            throw new UserErrorException("in the middle");
        }, overwrite: true));
        Assert.Equal(existed ? ["out"] : [], Directory.GetFileSystemEntries(_folder.Root).Select(Path.GetFileName));
        if (existed)
            Assert.Equal(["old"], Directory.GetFiles(target).Select(Path.GetFileName));
    }

    [Fact]
    public void LeftoversOfAKilledProcessAreFound()
    {
        string? left = null;
        AtomicFile.Write(_folder.File("a"), _ => left = Directory.GetFiles(_folder.Root).Single());
        File.WriteAllText(left!, "as a killed process leaves it");
        Directory.CreateDirectory(left + "x.tmp");
        AtomicFile.RemoveLeftovers(_folder.Root);
        Assert.Equal(["a"], Directory.GetFileSystemEntries(_folder.Root).Select(Path.GetFileName));
    }
}
