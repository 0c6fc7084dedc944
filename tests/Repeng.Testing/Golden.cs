using Xunit;

namespace Repeng.Testing;

/// <summary>
/// Where the golden files lie: the folder named by the environment variable <c>REPENG_GOLDEN</c>,
/// else <c>shared/golden</c> beside the repository. Models, tokenizers and data stand beside that root.
/// </summary>
public static class Golden
{
    private static readonly Lazy<string> s_root = new(FindRoot);

    /// <summary>Absolute path of the golden root; it need not exist.</summary>
    public static string Root => s_root.Value;

    /// <summary>Absolute path of the repository (the folder that holds Repeng.Native.sln).</summary>
    public static string Repository { get; } = FindRepository();

    /// <summary>Path below the golden root, such as <c>models/llama</c>.</summary>
    public static string Path(params string[] parts) => System.IO.Path.Combine([Root, .. parts]);

    /// <summary>Path beside the golden root, such as <c>tokenizers</c> or <c>models</c>.</summary>
    public static string Beside(params string[] parts) => System.IO.Path.GetFullPath(System.IO.Path.Combine([Root, "..", .. parts]));

    /// <summary>The row of a theory that has nothing to run over.</summary>
    public const string Absent = "(absent)";

    /// <summary>Names in their order, or where there are none <see cref="Absent"/>, which <see cref="Require"/> skips: a theory without rows would be an error.</summary>
    public static string[] OrAbsent(IEnumerable<string> names)
    {
        string[] sorted = [.. names.Order(StringComparer.Ordinal)];
        return sorted.Length > 0 ? sorted : [Absent];
    }

    /// <summary>Names of the files below a golden folder that a pattern fits, or <see cref="Absent"/>.</summary>
    public static string[] Files(string folder, string pattern) =>
        OrAbsent(Directory.Exists(Path(folder)) ? Directory.EnumerateFiles(Path(folder), pattern).Select(f => System.IO.Path.GetFileName(f)) : []);

    /// <summary>Names of the folders below a golden folder that hold a file, or <see cref="Absent"/>.</summary>
    public static string[] Folders(string folder, string file) =>
        OrAbsent(Directory.Exists(Path(folder)) ? Directory.EnumerateDirectories(Path(folder)).Where(d => File.Exists(System.IO.Path.Combine(d, file))).Select(d => System.IO.Path.GetFileName(d)) : []);

    /// <summary>Skips the running test, visibly, when a golden folder or file is absent; returns its path otherwise.</summary>
    public static string Require(params string[] parts)
    {
        string path = Path(parts);
        Assert.SkipUnless(File.Exists(path) || Directory.Exists(path), $"golden data absent: {path} (set REPENG_GOLDEN)");
        return path;
    }

    /// <summary>Skips the running test, visibly, when a file or folder beside the golden root is absent; returns its path otherwise.</summary>
    public static string RequireBeside(params string[] parts)
    {
        string path = Beside(parts);
        Assert.SkipUnless(File.Exists(path) || Directory.Exists(path), $"golden data absent: {path} (set REPENG_GOLDEN)");
        return path;
    }

    private static string FindRoot()
    {
        string? named = Environment.GetEnvironmentVariable("REPENG_GOLDEN");
        return System.IO.Path.GetFullPath(string.IsNullOrWhiteSpace(named)
            ? System.IO.Path.Combine(Repository, "..", "shared", "golden")
            : named);
    }

    private static string FindRepository()
    {
        for (DirectoryInfo? d = new(AppContext.BaseDirectory); d is not null; d = d.Parent)
            if (File.Exists(System.IO.Path.Combine(d.FullName, "Repeng.Native.sln")))
                return d.FullName;
        return Directory.GetCurrentDirectory();
    }
}
