using System.Buffers.Binary;
using System.IO.Compression;
using System.IO.Hashing;
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

    /// <summary>
    /// Lets the demo model and native libraries be found in the program itself, each where it does not lie beside it. Nothing is read
    /// before one of them is asked for: who brings a model needs no program that can be read.
    /// </summary>
    public static void Use(string program)
    {
        string beside = ModelBundle.DemoFolder;
        if (!Directory.Exists(beside))
            ModelBundle.UseDemo(() => Carries(program) ? Path.Combine(Unpacked(program), "models", "demo") : beside);
        foreach (Assembly assembly in new[] { typeof(SkiaSharp.SKColor).Assembly, typeof(HarfBuzzSharp.Blob).Assembly })
            NativeLibrary.SetDllImportResolver(assembly, (name, _, _) => Library(program, $"{name}.so"));
    }

    /// <summary>Whether a file ends in parts.</summary>
    /// <exception cref="UserErrorException">It cannot be read.</exception>
    public static bool Carries(string program)
    {
        using FileStream file = Open(program);
        return Tail(file) is not null;
    }

    /// <summary>Folder of the parts of a program below a cache folder, which is made when it is missing. Files there that are no longer
    /// what the program carries (length, CRC-32) are unpacked again.</summary>
    /// <exception cref="UserErrorException">The program cannot be read, its parts are damaged, or the cache cannot be written.</exception>
    public static string Unpack(string program, string cache)
    {
        byte[] bytes;
        using (FileStream file = Open(program))
        {
            (long start, int length) = Tail(file) ?? throw FileErrors.Bad(program, "carries no parts behind its code");
            bytes = new byte[length];
            file.Position = start;
            file.ReadExactly(bytes);
        }
        string folder = Path.Combine(cache, Convert.ToHexStringLower(SHA256.HashData(bytes))[..16]);
        try
        {
            using var zip = new ZipArchive(new MemoryStream(bytes));
            if (IsWhole(zip, folder))
                return folder;
            try
            {
                AtomicFile.WriteFolder(folder, to =>
                {
                    zip.ExtractToDirectory(to);
                    if (!IsWhole(zip, to))
                        throw new InvalidDataException("a file's length or CRC-32 is not the one that its entry names");
                }, overwrite: true);
            }
            catch (UserErrorException e)
            {
                // Another start of the program may have been faster; what it made has the same hash.
                if (!IsWhole(zip, folder))
                    throw new UserErrorException($"the demo model and the plotting library of {program} cannot be unpacked into {cache} ({e.Message}); set XDG_CACHE_HOME to a folder that can be written", e);
            }
        }
        catch (InvalidDataException e)
        {
            throw new UserErrorException($"{program}: the demo model and the plotting library behind its code are damaged ({e.Message}); copy or build the program again", e);
        }
        return folder;
    }

    private static bool IsWhole(ZipArchive zip, string folder) => zip.Entries.All(e => e.Name.Length == 0 || IsWhole(e, Path.Combine(folder, e.FullName)));

    private static bool IsWhole(ZipArchiveEntry entry, string path)
    {
        try
        {
            if (!File.Exists(path))
                return false;
            using FileStream file = File.OpenRead(path);
            if (file.Length != entry.Length)
                return false;
            var crc = new Crc32();
            crc.Append(file);
            return crc.GetCurrentHashAsUInt32() == entry.Crc32;
        }
        catch (Exception e) when (FileErrors.IsFileTrouble(e))
        {
            // What cannot be read is of no use; unpacking anew says why, if that cannot be done either.
            return false;
        }
    }

    private static nint Library(string program, string name) =>
        !File.Exists(Path.Combine(AppContext.BaseDirectory, name)) && Carries(program) && NativeLibrary.TryLoad(Path.Combine(Unpacked(program), name), out nint handle) ? handle : 0;

    private static FileStream Open(string program)
    {
        try
        {
            return File.OpenRead(program);
        }
        catch (Exception e) when (FileErrors.IsFileTrouble(e))
        {
            throw new UserErrorException($"{program}: the demo model and the plotting library lie behind its code, and it cannot be read ({e.Message}); make it readable (chmod a+r)", e);
        }
    }

    private static string Unpacked(string program)
    {
        lock (s_lock)
            return s_folder ??= Unpack(program, Cache);
    }

    /// <summary>The program's folder in the person's cache.</summary>
    public static string Cache => Path.Combine(CacheHome(), CliApp.Name);

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
