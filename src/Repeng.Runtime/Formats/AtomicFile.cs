using Repeng.Kernels;

namespace Repeng.Runtime.Formats;

/// <summary>
/// Writes a file or a folder so that its name only ever shows the old or the complete new content: everything goes to
/// a temporary name beside the target, is flushed to disk and then renamed. On failure the temporary is removed and
/// the target is as it was. A process that is killed leaves a hidden <c>.repeng-*.tmp</c> behind, never a half-written target.
/// </summary>
public static class AtomicFile
{
    private const string TempPrefix = ".repeng-", TempSuffix = ".tmp";

    /// <summary>
    /// Writes a file. Missing parent folders are made.
    /// </summary>
    /// <param name="path">Target; through a symbolic link the file it points to is replaced.</param>
    /// <param name="write">Writes the content to the stream that it is given.</param>
    /// <param name="overwrite">Whether an existing file is replaced; else it is an error.</param>
    /// <param name="expectedBytes">Size, where it is known: too little space is then found before anything is written.</param>
    /// <exception cref="UserErrorException">The target exists, may not be written, or the space does not suffice.</exception>
    public static void Write(string path, Action<Stream> write, bool overwrite = true, long expectedBytes = 0)
    {
        long written = 0;
        string? temp = null;
        try
        {
            string target = ResolveFile(path, overwrite);
            temp = PrepareTemp(path, target, expectedBytes);
            using (var stream = new FileStream(temp, FileMode.CreateNew, FileAccess.Write, FileShare.None, 1 << 16))
            {
                try
                {
                    write(stream);
                    stream.Flush(flushToDisk: true);
                }
                finally
                {
                    written = LengthOf(temp);
                }
            }
            File.Move(temp, target, overwrite);
            FileSync.Folder(Path.GetDirectoryName(target)!);
        }
        catch (Exception e)
        {
            if (temp is not null)
                Remove(temp);
            if (Translate(e, path, written) is { } translated)
                throw translated;
            throw;
        }
    }

    /// <summary>Writes a text as UTF-8 without byte-order mark; see <see cref="Write"/>.</summary>
    public static void WriteText(string path, string text, bool overwrite = true)
    {
        byte[] bytes = System.Text.Encoding.UTF8.GetBytes(text);
        Write(path, s => s.Write(bytes), overwrite, bytes.Length);
    }

    /// <summary>
    /// Writes a folder: <paramref name="fill"/> gets an empty folder beside the target, which takes the target's name
    /// when all is on disk. Missing parent folders are made.
    /// </summary>
    /// <param name="target">Folder to make; an existing one, even empty, is an error unless <paramref name="overwrite"/> is set.</param>
    /// <param name="fill">Writes the files into the folder whose path it is given.</param>
    /// <param name="overwrite">Replaces an existing folder as a whole; on Linux in one step (renameat2 with exchange), elsewhere
    /// the old folder is first renamed to a temporary name, so that between two renames no folder bears the name.</param>
    /// <param name="expectedBytes">Size, where it is known: too little space is then found before anything is written.</param>
    /// <exception cref="UserErrorException">The target exists, may not be written, or the space does not suffice.</exception>
    public static void WriteFolder(string target, Action<string> fill, bool overwrite = false, long expectedBytes = 0)
    {
        long written = 0;
        string? temp = null;
        try
        {
            RequireFolderFree(target, overwrite);
            string full = Path.TrimEndingDirectorySeparator(Path.GetFullPath(target));
            temp = PrepareTemp(target, full, expectedBytes);
            Directory.CreateDirectory(temp);
            try
            {
                fill(temp);
                FileSync.Tree(temp);
            }
            finally
            {
                written = LengthOf(temp);
            }
            // After the exchange the temporary name holds the old folder.
            if (Directory.Exists(full) && overwrite)
            {
                FileSync.Exchange(temp, full);
                Remove(temp);
            }
            else
                Directory.Move(temp, full);
            FileSync.Folder(Path.GetDirectoryName(full)!);
        }
        catch (Exception e)
        {
            if (temp is not null)
                Remove(temp);
            if (Translate(e, target, written) is { } translated)
                throw translated;
            throw;
        }
    }

    /// <summary>
    /// Writes several files into a folder that may hold others: all of them are complete on disk before the first takes its name, so
    /// that a failure leaves the folder as it was. Existing files of these names are replaced; missing folders are made.
    /// </summary>
    /// <param name="folder">Where the files go.</param>
    /// <param name="fill">Writes the files, without folders, into the empty folder whose path it is given.</param>
    /// <exception cref="UserErrorException">The folder is a file or may not be written, a name is that of a folder, or the space does not suffice.</exception>
    public static void WriteInto(string folder, Action<string> fill)
    {
        long written = 0;
        string? temp = null;
        try
        {
            RequireFolderFree(folder, overwrite: true);
            string full = Path.GetFullPath(folder);
            temp = PrepareTemp(folder, Path.Combine(full, "file"), 0);
            Directory.CreateDirectory(temp);
            try
            {
                fill(temp);
                FileSync.Tree(temp);
            }
            finally
            {
                written = LengthOf(temp);
            }
            (string From, string To)[] moves = [.. Directory.GetFiles(temp).Select(f => (f, ResolveFile(Path.Combine(full, Path.GetFileName(f)), overwrite: true)))];
            foreach ((string from, string to) in moves)
                File.Move(from, to, overwrite: true);
            Remove(temp);
            FileSync.Folder(full);
        }
        catch (Exception e)
        {
            if (temp is not null)
                Remove(temp);
            if (Translate(e, folder, written) is { } translated)
                throw translated;
            throw;
        }
    }

    /// <summary>
    /// Throws when <see cref="WriteFolder"/> would refuse the target now: to be called before hours of work whose result shall go there.
    /// </summary>
    public static void RequireFolderFree(string target, bool overwrite = false)
    {
        if (File.Exists(target))
            throw new UserErrorException($"{target}: is a file, a folder is needed; choose another name");
        if (!overwrite && Directory.Exists(target))
            throw new UserErrorException($"{target}: the folder exists already; choose another, remove it, or allow overwriting");
    }

    /// <summary>
    /// Removes temporaries that killed processes left in a folder. Only for a folder that no other process writes to:
    /// its unfinished files would go too.
    /// </summary>
    public static void RemoveLeftovers(string folder)
    {
        if (!Directory.Exists(folder))
            return;
        foreach (string entry in Directory.EnumerateFileSystemEntries(folder, TempPrefix + "*" + TempSuffix))
            Remove(entry);
    }

    private static string ResolveFile(string path, bool overwrite)
    {
        if (string.IsNullOrEmpty(path))
            throw new UserErrorException("an output file without a name cannot be written; give a path");
        string full = Path.GetFullPath(path);
        if (Directory.Exists(full))
            throw new UserErrorException($"{path}: is a folder, a file is needed; give a file name in it");
        var info = new FileInfo(full);
        if (info.LinkTarget is not null)
            full = info.ResolveLinkTarget(returnFinalTarget: true)!.FullName;
        // A rename would put a plain file in the place of a device. /dev/shm has none: it is a file system in memory.
        if (OperatingSystem.IsLinux() && (full.StartsWith("/dev/", StringComparison.Ordinal) && !full.StartsWith("/dev/shm/", StringComparison.Ordinal) || full.StartsWith("/proc/", StringComparison.Ordinal)))
            throw new UserErrorException($"{path}: is no place for a file; choose a path on a disk");
        if (!overwrite && File.Exists(full))
            throw new UserErrorException($"{path}: exists already; choose another name, remove it, or allow overwriting");
        return full;
    }

    private static string PrepareTemp(string path, string target, long expectedBytes)
    {
        string folder = Path.GetDirectoryName(target) ?? throw new UserErrorException($"{path}: cannot be written; give a name below a folder");
        Directory.CreateDirectory(folder);
        long free = FreeBytes(folder);
        if (expectedBytes > free)
            throw new UserErrorException($"{path}: {expectedBytes} bytes are to be written, {free} bytes are free there; free space or choose another disk");
        return Path.Combine(folder, $"{TempPrefix}{Guid.NewGuid():N}{TempSuffix}");
    }

    private static UserErrorException? Translate(Exception e, string path, long written)
    {
        switch (e)
        {
            case IOException io when IsNoSpace(io):
                return new UserErrorException($"{path}: no space left on the disk after {written} bytes ({FreeBytes(Path.GetDirectoryName(Path.GetFullPath(path)))} bytes free now); nothing was kept, free space or choose another disk", e);
            case IOException or UnauthorizedAccessException:
                return new UserErrorException($"{path}: cannot be written: {e.Message.ReplaceLineEndings(" ")}", e);
            default:
                return null;
        }
    }

    internal static bool IsNoSpace(IOException e)
    {
        // .NET keeps errno (ENOSPC, and EDQUOT of Linux and macOS) or the Windows code (disk full, handle disk full) here.
        int code = e.HResult & 0xFFFF;
        return OperatingSystem.IsWindows() ? code is 112 or 39 : code is 28 || code == (OperatingSystem.IsLinux() ? 122 : 69);
    }

    /// <summary>Bytes free for this user on the disk of a folder; the largest number where the system does not tell.</summary>
    internal static long FreeBytes(string? folder)
    {
        try
        {
            return folder is null ? long.MaxValue : new DriveInfo(folder).AvailableFreeSpace;
        }
        catch (Exception e) when (FileErrors.IsFileTrouble(e))
        {
            // Some mounts do not tell; then the write itself finds out.
            return long.MaxValue;
        }
    }

    private static long LengthOf(string path)
    {
        if (File.Exists(path))
            return new FileInfo(path).Length;
        return Directory.Exists(path) ? new DirectoryInfo(path).EnumerateFiles("*", SearchOption.AllDirectories).Sum(f => f.Length) : 0;
    }

    private static void Remove(string path)
    {
        try
        {
            if (Directory.Exists(path))
                Directory.Delete(path, recursive: true);
            else
                File.Delete(path);
        }
        catch (Exception e) when (FileErrors.IsFileTrouble(e))
        {
            // The error that led here matters more than a temporary that stays.
        }
    }
}
