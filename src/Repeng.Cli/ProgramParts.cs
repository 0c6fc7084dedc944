using System.Buffers.Binary;
using System.IO.Compression;
using System.Reflection;
using System.Runtime.InteropServices;
using System.Security.Cryptography;
using Repeng.Kernels;
using Repeng.Runtime.Formats;
using Repeng.Steering.Models;

namespace Repeng.Cli;

/// <summary>
/// What a program of one file carries behind its code: the demo model and the library that draws plots, as a ZIP, its length in eight
/// bytes and eight bytes of mark (Native/Native.targets). They are unpacked once, into the cache of the person who first needs them.
/// </summary>
internal static class ProgramParts
{
    /// <summary>The last eight bytes of a program that carries parts.</summary>
    public static ReadOnlySpan<byte> Mark => "REPENG01"u8;

    private const int TailBytes = 16;
    private static readonly Lock s_lock = new();
    private static string? s_folder;

    /// <summary>Lets the demo model and native libraries be found in the program itself, where they do not lie beside it.</summary>
    public static void Use(string program)
    {
        if (Directory.Exists(ModelBundle.DemoFolder) || !Carries(program))
            return;
        ModelBundle.UseDemo(() => Path.Combine(Unpacked(program), "models", "demo"));
        foreach (Assembly assembly in new[] { typeof(SkiaSharp.SKColor).Assembly, typeof(HarfBuzzSharp.Blob).Assembly })
            NativeLibrary.SetDllImportResolver(assembly, (name, _, _) => NativeLibrary.TryLoad(Path.Combine(Unpacked(program), $"{name}.so"), out nint handle) ? handle : 0);
    }

    /// <summary>Whether a file ends in parts.</summary>
    public static bool Carries(string program)
    {
        using FileStream file = File.OpenRead(program);
        return Tail(file) is not null;
    }

    /// <summary>Folder of the parts of a program below a cache folder, which is made when it is missing.</summary>
    /// <exception cref="UserErrorException">It cannot be written, or the parts are damaged.</exception>
    public static string Unpack(string program, string cache)
    {
        using FileStream file = File.OpenRead(program);
        (long start, int length) = Tail(file) ?? throw FileErrors.Bad(program, "carries no parts behind its code");
        var bytes = new byte[length];
        file.Position = start;
        file.ReadExactly(bytes);
        string folder = Path.Combine(cache, Convert.ToHexStringLower(SHA256.HashData(bytes))[..16]);
        if (Directory.Exists(folder))
            return folder;
        try
        {
            Directory.CreateDirectory(cache);
            AtomicFile.WriteFolder(folder, to => ZipFile.ExtractToDirectory(new MemoryStream(bytes), to));
        }
        catch (UserErrorException) when (Directory.Exists(folder))
        {
            // Another start of the program was faster; what it made has the same hash.
        }
        catch (Exception e) when (e is InvalidDataException or IOException or UnauthorizedAccessException)
        {
            throw new UserErrorException($"{program}: the demo model and the plotting library cannot be unpacked into {cache} ({e.Message}); set XDG_CACHE_HOME to a folder that can be written", e);
        }
        return folder;
    }

    private static string Unpacked(string program)
    {
        lock (s_lock)
            return s_folder ??= Unpack(program, Path.Combine(CacheHome(), CliApp.Name));
    }

    private static string CacheHome() => Environment.GetEnvironmentVariable("XDG_CACHE_HOME") is { Length: > 0 } xdg
        ? xdg : Path.Combine(Environment.GetFolderPath(Environment.SpecialFolder.UserProfile), ".cache");

    private static (long Start, int Length)? Tail(FileStream file)
    {
        Span<byte> tail = stackalloc byte[TailBytes];
        if (file.Length < TailBytes)
            return null;
        file.Seek(-TailBytes, SeekOrigin.End);
        file.ReadExactly(tail);
        long length = BinaryPrimitives.ReadInt64LittleEndian(tail);
        return tail[8..].SequenceEqual(Mark) && length > 0 && length <= Math.Min(file.Length - TailBytes, Array.MaxLength) ? (file.Length - TailBytes - length, (int)length) : null;
    }
}
