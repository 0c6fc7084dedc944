using Repeng.Kernels;

namespace Repeng.Runtime.Hub;

/// <summary>
/// The cache on disk in huggingface_hub's layout: <c>models--org--name/{blobs,refs,snapshots,.no_exist}</c>, a blob under
/// its etag (the sha256 of large files, git's sha1 of the others), a snapshot's files as relative links to blobs, or as
/// the files themselves where the system has no links. Locks stand in <c>.locks</c>.
/// </summary>
internal sealed class HubCache(HubSettings settings, HubListener listener)
{
    private static readonly TimeSpan s_lockPoll = TimeSpan.FromMilliseconds(100);
    private static readonly TimeSpan s_lockNote = TimeSpan.FromSeconds(10);

    public string RepositoryFolder(string repository) => Path.Combine(settings.CacheFolder, "models--" + repository.Replace("/", "--", StringComparison.Ordinal));

    public string Snapshot(string repository, string commit) => Path.Combine(RepositoryFolder(repository), "snapshots", commit);

    public string Blob(string repository, string etag) => Path.Combine(RepositoryFolder(repository), "blobs", etag);

    /// <summary>A file that is still growing; its bytes are always the first ones of the blob, as huggingface_hub has it, so either goes on where the other stopped.</summary>
    public string Partial(string repository, string etag) => Blob(repository, etag) + ".incomplete";

    /// <summary>The commit of a revision as far as the cache knows; null when it does not.</summary>
    public string? Commit(HubReference reference)
    {
        if (reference.IsCommit)
            return Directory.Exists(Snapshot(reference.Repository, reference.Revision)) ? reference.Revision : null;
        string file = RefFile(reference);
        if (!File.Exists(file))
            return null;
        string text = File.ReadAllText(file).Trim();
        return HubReference.IsCommitText(text) ? text : throw new UserErrorException($"{file}: holds no commit (40 hexadecimal digits); remove the file, it is made anew with the next fetch");
    }

    public void WriteCommit(HubReference reference, string commit)
    {
        if (reference.Revision == commit)
            return;
        string file = RefFile(reference);
        // A plain file without a line end, as the others write it.
        if (!File.Exists(file) || File.ReadAllText(file) != commit)
            Formats.AtomicFile.WriteText(file, commit);
    }

    /// <summary>Whether the repository is known to lack a file at a commit.</summary>
    public bool KnownAbsent(string repository, string commit, string name) => File.Exists(AbsentFile(repository, commit, name));

    public void MarkAbsent(string repository, string commit, string name)
    {
        string file = AbsentFile(repository, commit, name);
        Directory.CreateDirectory(Path.GetDirectoryName(file)!);
        using FileStream _ = new(file, FileMode.OpenOrCreate, FileAccess.Write, FileShare.ReadWrite);
    }

    /// <summary>Gives a blob its name in a snapshot. Where there are no links the blob itself moves there when it is new, else a copy.</summary>
    public void Link(string repository, string commit, string name, string etag, bool newBlob)
    {
        string pointer = Path.Combine(Snapshot(repository, commit), Local(name)), blob = Blob(repository, etag);
        string folder = Path.GetDirectoryName(pointer)!;
        Directory.CreateDirectory(folder);
        // A link whose blob was removed is in the way.
        if (IsThere(pointer))
            return;
        File.Delete(pointer);
        try
        {
            settings.MakeLink(pointer, Path.GetRelativePath(folder, blob));
        }
        catch (Exception) when (IsThere(pointer))
        {
            // Another process was faster.
        }
        catch (Exception e) when (e is IOException or UnauthorizedAccessException or PlatformNotSupportedException)
        {
            if (newBlob)
                File.Move(blob, pointer, overwrite: true);
            else
                CopyWhole(blob, pointer);
        }
    }

    /// <summary>Whether a file, or what a link stands for, is there; File.Exists is true for a link whose target is gone.</summary>
    public static bool IsThere(string path)
    {
        var info = new FileInfo(path);
        return info.LinkTarget is null ? info.Exists : info.ResolveLinkTarget(returnFinalTarget: true) is { Exists: true };
    }

    /// <summary>Keeps other processes, ours and huggingface_hub's, from fetching the same blob; waits until they are done.</summary>
    public async Task<IDisposable> Lock(string repository, string etag, string name, CancellationToken stop)
    {
        string file = Path.Combine(settings.CacheFolder, ".locks", Path.GetFileName(RepositoryFolder(repository)), etag + ".lock");
        Directory.CreateDirectory(Path.GetDirectoryName(file)!);
        DateTime nextNote = DateTime.UtcNow + TimeSpan.FromSeconds(1);
        while (true)
        {
            try
            {
                // On Unix this is flock, which is also what Python's filelock takes.
                return new FileStream(file, FileMode.OpenOrCreate, FileAccess.ReadWrite, FileShare.None);
            }
            catch (IOException e) when (IsTaken(e))
            {
                if (DateTime.UtcNow >= nextNote)
                {
                    listener.Note($"{name}: another process fetches it (it holds {file}); waiting");
                    nextNote = DateTime.UtcNow + s_lockNote;
                }
                await Task.Delay(s_lockPoll, stop);
            }
        }
    }

    /// <summary>Makes a complete file a blob.</summary>
    public void Keep(string repository, string etag) => File.Move(Partial(repository, etag), Blob(repository, etag), overwrite: true);

    private string RefFile(HubReference reference) => Path.Combine(RepositoryFolder(reference.Repository), "refs", Local(reference.Revision));

    private string AbsentFile(string repository, string commit, string name) => Path.Combine(RepositoryFolder(repository), ".no_exist", commit, Local(name));

    private static string Local(string path) => path.Replace('/', Path.DirectorySeparatorChar);

    private static void CopyWhole(string from, string to)
    {
        string temp = to + ".incomplete";
        File.Copy(from, temp, overwrite: true);
        File.Move(temp, to, overwrite: true);
    }

    // EWOULDBLOCK of Linux and macOS; sharing and lock violations of Windows.
    private static bool IsTaken(IOException e) => (e.HResult & 0xFFFF) is 11 or 35 or 32 or 33;
}
