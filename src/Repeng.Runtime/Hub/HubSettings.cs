using Microsoft.Win32.SafeHandles;
using Repeng.Kernels;

namespace Repeng.Runtime.Hub;

/// <summary>Where models of the Hugging Face hub lie on this machine and how they are fetched.</summary>
public sealed record HubSettings
{
    /// <summary>The server that is asked unless HF_ENDPOINT names another.</summary>
    public const string DefaultEndpoint = "https://huggingface.co";

    private static readonly string[] s_true = ["1", "ON", "YES", "TRUE"];

    /// <summary>The cache that huggingface_hub uses: HF_HUB_CACHE, else hub in HF_HOME, else ~/.cache/huggingface/hub.</summary>
    public required string CacheFolder { get; init; }

    /// <summary>The server: HF_ENDPOINT.</summary>
    public Uri Endpoint { get; init; } = new(DefaultEndpoint);

    /// <summary>Access token: HF_TOKEN, else the file that logging in leaves (HF_TOKEN_PATH, else token in HF_HOME); null for none.</summary>
    public string? Token { get; init; }

    /// <summary>HF_HUB_OFFLINE (or TRANSFORMERS_OFFLINE): nothing but the cache is asked.</summary>
    public bool Offline { get; init; }

    /// <summary>How long a connection may take to come about.</summary>
    public TimeSpan ConnectTimeout { get; init; } = TimeSpan.FromSeconds(10);

    /// <summary>How long a server may send nothing before the request is made anew: HF_HUB_DOWNLOAD_TIMEOUT, in seconds.</summary>
    public TimeSpan StallTimeout { get; init; } = TimeSpan.FromSeconds(30);

    /// <summary>Ranges of one file that are fetched at once.</summary>
    public int Connections { get; init; } = 8;

    /// <summary>Bytes of one range; null: 512 KiB from a server that answers within 5 ms, else 8 MiB. Times <see cref="Connections"/> it is the memory that a download takes.</summary>
    public int? RangeBytes { get; init; }

    /// <summary>Requests that may fail one after the other without a new byte.</summary>
    public int Attempts { get; init; } = 6;

    /// <summary>The longest wait that a server may ask for by Retry-After.</summary>
    public TimeSpan LongestWait { get; init; } = TimeSpan.FromMinutes(5);

    /// <summary>How waiting is done; tests do not wait.</summary>
    internal Func<TimeSpan, CancellationToken, Task> Wait { get; init; } = Task.Delay;

    /// <summary>Bytes free on the disk of a folder.</summary>
    internal Func<string, long> FreeBytes { get; init; } = Formats.AtomicFile.FreeBytes;

    /// <summary>Writes to the file that a download grows in; tests put full disks here.</summary>
    internal PartialWrite Write { get; init; } = static (file, bytes, offset) => RandomAccess.Write(file, bytes, offset);

    /// <summary>Reads that file back to hash it, by one thread in order; where an earlier run noted a hash, by another one, which compares.</summary>
    internal PartialRead Read { get; init; } = static (file, bytes, offset) => RandomAccess.Read(file, bytes, offset);

    /// <summary>Brings what was written of that file to the disk.</summary>
    internal Action<SafeFileHandle> Flush { get; init; } = RandomAccess.FlushToDisk;

    /// <summary>Written bytes after which the disk gets something to do, so that the flush at the end finds little left.</summary>
    internal long FlushEvery { get; init; } = 16 << 20;

    /// <summary>Hashed bytes after which the state of the hash is noted for the next run; a multiple of 64, and files below two of them are hashed again.</summary>
    internal long NoteEvery { get; init; } = 8 << 20;

    /// <summary>A server that answers within this is near: over a longer way every request costs its time.</summary>
    internal TimeSpan NearLatency { get; init; } = TimeSpan.FromMilliseconds(5);

    /// <summary>Makes symbolic links; tests stand for systems that have none.</summary>
    internal Action<string, string> MakeLink { get; init; } = static (path, target) => File.CreateSymbolicLink(path, target);

    /// <summary>The settings of the environment, by the names that huggingface_hub reads.</summary>
    /// <param name="variable">Reads a variable; null takes those of the process.</param>
    /// <exception cref="UserErrorException">A variable has a value that cannot be used.</exception>
    public static HubSettings FromEnvironment(Func<string, string?>? variable = null)
    {
        Func<string, string?> read = variable ?? Environment.GetEnvironmentVariable;
        string? Get(string name) => read(name)?.Trim() is { Length: > 0 } text ? text : null;
        bool Flag(string name) => Get(name) is { } text && s_true.Contains(text.ToUpperInvariant());

        string cacheRoot = Get("XDG_CACHE_HOME") is { } xdg ? Expand(xdg, Get) : Path.Combine(Home(Get), ".cache");
        string home = Get("HF_HOME") is { } given ? Expand(given, Get) : Path.Combine(cacheRoot, "huggingface");
        string cache = (Get("HF_HUB_CACHE") ?? Get("HUGGINGFACE_HUB_CACHE")) is { } folder ? Expand(folder, Get) : Path.Combine(home, "hub");
        string tokenFile = Get("HF_TOKEN_PATH") is { } path ? Expand(path, Get) : Path.Combine(home, "token");
        var settings = new HubSettings
        {
            CacheFolder = Path.GetFullPath(cache),
            Endpoint = ReadEndpoint(Get("HF_ENDPOINT") ?? DefaultEndpoint),
            Token = Get("HF_TOKEN") ?? Get("HUGGING_FACE_HUB_TOKEN") ?? (Flag("HF_HUB_DISABLE_IMPLICIT_TOKEN") ? null : ReadToken(tokenFile)),
            Offline = Flag("HF_HUB_OFFLINE") || Flag("TRANSFORMERS_OFFLINE"),
        };
        if (settings.Token is { } token && token.Any(c => c is <= ' ' or > '~'))
            throw new UserErrorException("the access token (HF_TOKEN or the token file) has blanks or characters that no token has; copy it anew from the hub's settings");
        if (Get("HF_HUB_DOWNLOAD_TIMEOUT") is not { } timeout)
            return settings;
        return double.TryParse(timeout, System.Globalization.CultureInfo.InvariantCulture, out double seconds) && seconds is > 0 and < 86400
            ? settings with { StallTimeout = TimeSpan.FromSeconds(seconds) }
            : throw new UserErrorException($"HF_HUB_DOWNLOAD_TIMEOUT is '{timeout}'; it must be a number of seconds");
    }

    private static Uri ReadEndpoint(string text) =>
        Uri.TryCreate(text.TrimEnd('/'), UriKind.Absolute, out Uri? uri) && uri.Scheme is "http" or "https"
            ? uri
            : throw new UserErrorException($"HF_ENDPOINT is '{text}'; it must be an address such as {DefaultEndpoint}");

    private static string Home(Func<string, string?> get) => get("HOME") ?? Environment.GetFolderPath(Environment.SpecialFolder.UserProfile);

    private static string Expand(string path, Func<string, string?> get) =>
        path == "~" || path.StartsWith("~/", StringComparison.Ordinal) ? Path.Combine(Home(get), path.Length > 2 ? path[2..] : "") : path;

    private static string? ReadToken(string file)
    {
        try
        {
            return File.Exists(file) && File.ReadAllText(file).Trim() is { Length: > 0 } token ? token : null;
        }
        catch (Exception e) when (e is IOException or UnauthorizedAccessException)
        {
            throw new UserErrorException($"{file}: the access token cannot be read: {e.Message}; give HF_TOKEN, or mend the file's permissions", e);
        }
    }
}

/// <summary>Writes bytes at an offset of a file.</summary>
internal delegate void PartialWrite(SafeFileHandle file, ReadOnlySpan<byte> bytes, long offset);

/// <summary>Reads bytes at an offset of a file: as many as the result says, none at its end.</summary>
internal delegate int PartialRead(SafeFileHandle file, Span<byte> bytes, long offset);
