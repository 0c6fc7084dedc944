using System.Text;
using Repeng.Kernels;

namespace Repeng.Runtime.Formats;

/// <summary>Wording that the readers share.</summary>
public static class FileErrors
{
    private const int LongestQuote = 80;

    /// <summary>An error about the contents of a file: path, then what is wrong in it.</summary>
    public static UserErrorException Bad(string path, string what, Exception? inner = null) => new($"{path}: {what}", inner);

    /// <summary>Text from a file, quoted for a one-line message: control characters escaped, long text cut.</summary>
    public static string Quote(string text)
    {
        var quoted = new StringBuilder("'");
        foreach (char c in text.AsSpan(0, Math.Min(text.Length, LongestQuote)))
        {
            if (char.IsControl(c) || char.IsSurrogate(c) || c is '\u2028' or '\u2029')
                quoted.Append($"\\u{(int)c:x4}");
            else
                quoted.Append(c);
        }
        if (text.Length > LongestQuote)
            quoted.Append($"… ({text.Length} characters)");
        return quoted.Append('\'').ToString();
    }

    /// <summary>A file that cannot be opened or read, as one line that says what to do.</summary>
    public static UserErrorException CannotRead(string path, Exception e) => e switch
    {
        FileNotFoundException or DirectoryNotFoundException => new($"{path}: there is no such file; check the path", e),
        UnauthorizedAccessException when Directory.Exists(path) => new($"{path}: is a folder, a file is needed", e),
        UnauthorizedAccessException => new($"{path}: may not be read; check its permissions", e),
        _ => new($"{path}: cannot be read: {e.Message.ReplaceLineEndings(" ")}", e),
    };

    /// <summary>Exceptions that opening or reading a file throws for reasons that lie outside the program.</summary>
    public static bool IsFileTrouble(Exception e) =>
        e is IOException or UnauthorizedAccessException or NotSupportedException or ArgumentException or System.Security.SecurityException;

    /// <summary>Up to three names nearest to a wanted one by edit distance, for "did you mean".</summary>
    public static IReadOnlyList<string> Nearest(string wanted, IEnumerable<string> names) =>
        [.. names.Take(20_000).Select(n => (Name: n, Distance: Distance(wanted, n))).OrderBy(n => n.Distance)
            .ThenBy(n => n.Name, StringComparer.Ordinal).Take(3).Select(n => Quote(n.Name))];

    private static int Distance(string a, string b)
    {
        // Names of a file have no bound on their length; beyond a few hundred characters nearness means nothing.
        if (a.Length > 256 || b.Length > 256)
            return int.MaxValue;
        Span<int> previous = stackalloc int[b.Length + 1];
        Span<int> current = stackalloc int[b.Length + 1];
        for (int j = 0; j <= b.Length; j++)
            previous[j] = j;
        for (int i = 1; i <= a.Length; i++)
        {
            current[0] = i;
            for (int j = 1; j <= b.Length; j++)
                current[j] = Math.Min(Math.Min(previous[j], current[j - 1]) + 1, previous[j - 1] + (a[i - 1] == b[j - 1] ? 0 : 1));
            current.CopyTo(previous);
        }
        return previous[b.Length];
    }
}
