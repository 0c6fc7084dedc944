using System.Text.RegularExpressions;
using Repeng.Testing;

namespace Repeng.Cli.Tests;

/// <summary>Names of source files and test classes of the repository, which pages under docs name.</summary>
internal static partial class TestNames
{
    /// <summary>Names of all source files below a folder of the repository.</summary>
    public static HashSet<string> Sources(string folder) => [.. Code(folder).Select(f => Path.GetFileName(f))];

    /// <summary>Test classes, and of each its methods as Class.Method.</summary>
    public static HashSet<string> Tests()
    {
        var names = new HashSet<string>();
        foreach (string text in Code("tests").Select(File.ReadAllText))
            foreach (Match type in Class().Matches(text))
            {
                names.Add(type.Groups[1].Value);
                names.UnionWith(Method().Matches(text).Select(m => $"{type.Groups[1].Value}.{m.Groups[1].Value}"));
            }
        return names;
    }

    private static IEnumerable<string> Code(string folder) =>
        Directory.EnumerateFiles(Path.Combine(Golden.Repository, folder), "*.cs", SearchOption.AllDirectories)
            .Where(f => !f.Contains($"{Path.DirectorySeparatorChar}obj{Path.DirectorySeparatorChar}", StringComparison.Ordinal));

    [GeneratedRegex(@"\bclass (\w+Tests)\b")]
    private static partial Regex Class();

    [GeneratedRegex(@"^    public (?:async )?(?:void|Task) (\w+)\(", RegexOptions.Multiline)]
    private static partial Regex Method();
}
