using System.Runtime.InteropServices;

namespace Repeng.Runtime.Formats;

/// <summary>Flushing to disk and exchanging names, as far as the system allows.</summary>
internal static partial class FileSync
{
    private const int OpenReadOnly = 0, CurrentFolder = -100, RenameExchange = 2;
    private const int InvalidArgument = 22, NotImplemented = 38;

    /// <summary>Flushes the entries of a folder, so that a rename in it survives a power failure. Windows journals them itself.</summary>
    public static void Folder(string path)
    {
        if (OperatingSystem.IsWindows())
            return;
        int descriptor = Open(path, OpenReadOnly);
        if (descriptor < 0)
            throw Failure("opened for flushing", path);
        try
        {
            // Some network file systems have no flush for folders and say "invalid argument".
            if (Flush(descriptor) != 0 && Marshal.GetLastPInvokeError() != InvalidArgument)
                throw Failure("flushed", path);
        }
        finally
        {
            _ = Close(descriptor);
        }
    }

    /// <summary>Flushes every file and folder below a folder, and itself.</summary>
    public static void Tree(string folder)
    {
        foreach (string file in Directory.EnumerateFiles(folder, "*", SearchOption.AllDirectories))
        {
            using var stream = new FileStream(file, FileMode.Open, FileAccess.ReadWrite, FileShare.ReadWrite, bufferSize: 0);
            stream.Flush(flushToDisk: true);
        }
        foreach (string inner in Directory.EnumerateDirectories(folder, "*", SearchOption.AllDirectories))
            Folder(inner);
        Folder(folder);
    }

    /// <summary>Exchanges the names of two folders; in one step on Linux where the file system can.</summary>
    public static void Exchange(string a, string b)
    {
        if (OperatingSystem.IsLinux() && TryExchange(a, b))
            return;
        string aside = a + ".old";
        Directory.Move(b, aside);
        try
        {
            Directory.Move(a, b);
        }
        catch
        {
            Directory.Move(aside, b);
            throw;
        }
        Directory.Move(aside, a);
    }

    private static bool TryExchange(string a, string b)
    {
        try
        {
            if (RenameAt2(CurrentFolder, a, CurrentFolder, b, RenameExchange) == 0)
                return true;
        }
        catch (EntryPointNotFoundException)
        {
            // A C library older than the call: two renames do.
            return false;
        }
        return Marshal.GetLastPInvokeError() is InvalidArgument or NotImplemented ? false : throw Failure("exchanged with the old one", b);
    }

    private static IOException Failure(string what, string path)
    {
        int error = Marshal.GetLastPInvokeError();
        return new IOException($"{path} cannot be {what}: {Marshal.GetPInvokeErrorMessage(error)}", error);
    }

    [LibraryImport("libc", EntryPoint = "open", SetLastError = true, StringMarshalling = StringMarshalling.Utf8)]
    private static partial int Open(string path, int flags);

    [LibraryImport("libc", EntryPoint = "fsync", SetLastError = true)]
    private static partial int Flush(int descriptor);

    [LibraryImport("libc", EntryPoint = "close", SetLastError = true)]
    private static partial int Close(int descriptor);

    [LibraryImport("libc", EntryPoint = "renameat2", SetLastError = true, StringMarshalling = StringMarshalling.Utf8)]
    private static partial int RenameAt2(int fromFolder, string from, int toFolder, string to, uint flags);
}
