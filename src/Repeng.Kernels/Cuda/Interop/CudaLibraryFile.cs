using System.Runtime.InteropServices;

namespace Repeng.Kernels.Cuda.Interop;

/// <summary>
/// Finds and opens a library of NVIDIA's: by the system's loader, then where toolkits lie (CUDA_HOME, CUDA_PATH, /usr/local/cuda), whose installers leave the loader's path alone; or, where
/// <see cref="CudaLibraries.Switch"/> names folders, in these alone.
/// </summary>
internal static class CudaLibraryFile
{
    /// <summary>Opens the first file that is there; null and 0 where there is none.</summary>
    /// <param name="names">File names, newest first.</param>
    /// <param name="helpers">File names, in the order of loading, of libraries that it needs itself: loaded from its folder first, where they lie there, as the loader would not look there.</param>
    /// <param name="functions">What it must export.</param>
    /// <param name="environment">Values of environment variables.</param>
    /// <exception cref="UserErrorException">It is there and lacks a function; a folder that was named is not there, or a file in it cannot be loaded.</exception>
    public static (nint Library, string? Name) Open(IReadOnlyList<string> names, IReadOnlyList<string> helpers, IReadOnlyList<string> functions, Func<string, string?> environment)
    {
        string[]? folders = Named(environment);
        foreach (string name in folders is null ? names : [])
            if (NativeLibrary.TryLoad(name, out nint library))
                return (Checked(library, name, functions), name);
        foreach (string folder in folders ?? Usual(environment))
            foreach (string path in names.Select(n => Path.Combine(folder, n)).Where(File.Exists))
            {
                foreach (string helper in helpers.Select(h => Path.Combine(folder, h)).Where(File.Exists))
                    NativeLibrary.TryLoad(helper, out _);
                if (NativeLibrary.TryLoad(path, out nint library))
                    return (Checked(library, path, functions), path);
                // What was found by chance may be another machine's; what somebody named may not.
                if (folders is not null)
                    throw new UserErrorException($"CUDA: {path} cannot be loaded ({Reason(path)}); name other folders in {CudaLibraries.Switch}, or set it to none to go without");
            }
        return (0, null);
    }

    /// <summary>The folders that were named; null where none were.</summary>
    private static string[]? Named(Func<string, string?> environment)
    {
        if (environment(CudaLibraries.Switch) is not { Length: > 0 } value)
            return null;
        string[] folders = value.Split(Path.PathSeparator, StringSplitOptions.RemoveEmptyEntries | StringSplitOptions.TrimEntries);
        return folders.FirstOrDefault(f => !Directory.Exists(f)) is { } missing
            ? throw new UserErrorException($"{CudaLibraries.Switch}: there is no folder {missing}; give folders with NVIDIA's libraries, or none to go without them")
            : folders;
    }

    private static IEnumerable<string> Usual(Func<string, string?> environment)
    {
        string[] roots = [.. new[] { environment("CUDA_HOME"), environment("CUDA_PATH"), OperatingSystem.IsWindows() ? null : "/usr/local/cuda" }.OfType<string>().Where(Path.IsPathFullyQualified)];
        string[] within = OperatingSystem.IsWindows() ? ["bin", Path.Combine("bin", "x64")] : ["lib64", "lib"];
        return roots.SelectMany(r => within.Select(w => Path.Combine(r, w))).Distinct();
    }

    private static nint Checked(nint library, string name, IReadOnlyList<string> functions)
    {
        foreach (string function in functions)
            if (!NativeLibrary.TryGetExport(library, function, out _))
            {
                NativeLibrary.Free(library);
                throw new UserErrorException($"CUDA: {name} has no function {function}, it is of the wrong version; take it out of the library path, install that of CUDA 11.8 or newer, or set {CudaLibraries.Switch}=none to go without");
            }
        return library;
    }

    private static string Reason(string path)
    {
        try
        {
            NativeLibrary.Free(NativeLibrary.Load(path));
            return "the second try did";
        }
        catch (Exception e) when (e is DllNotFoundException or BadImageFormatException)
        {
            return e.Message.ReplaceLineEndings(" ");
        }
    }
}
