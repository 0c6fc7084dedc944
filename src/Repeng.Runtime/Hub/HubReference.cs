using System.Text.RegularExpressions;
using Repeng.Kernels;

namespace Repeng.Runtime.Hub;

/// <summary>A repository of the hub as a person writes it: org/name, org/name@revision, org/name:file.gguf, org/name@revision:file.gguf.</summary>
/// <param name="Repository">org/name, or for a few old ones the name alone.</param>
/// <param name="Revision">Branch, tag or commit.</param>
/// <param name="File">A .gguf file of the repository, or a part of the name of one, such as Q4_K_M; null for the repository's own files.</param>
public sealed partial record HubReference(string Repository, string Revision = HubReference.Main, string? File = null)
{
    /// <summary>The branch that is meant where none is named.</summary>
    public const string Main = "main";

    private const int LongestName = 96;

    /// <inheritdoc/>
    public override string ToString() => Repository + (Revision == Main ? "" : $"@{Revision}") + (File is null ? "" : $":{File}");

    /// <summary>True when the revision is a commit, which never changes.</summary>
    internal bool IsCommit => CommitPattern().IsMatch(Revision);

    /// <summary>Reads a text; null when it cannot be a repository of the hub.</summary>
    /// <param name="bareName">Whether a name without an organisation counts as well.</param>
    public static HubReference? TryParse(string text, bool bareName = false)
    {
        Match m = Pattern().Match(text);
        if (!m.Success)
            return null;
        string name = m.Groups["repository"].Value;
        if (!name.Contains('/') && !bareName || !IsRepository(name))
            return null;
        string revision = m.Groups["revision"].Success ? m.Groups["revision"].Value : Main;
        string? file = m.Groups["file"].Success ? m.Groups["file"].Value : null;
        if (!IsSafePath(revision) || file is not null && !IsSafePath(file))
            return null;
        return new HubReference(name, revision, file);
    }

    /// <summary>A path with forward slashes that stays below the folder that it is put under, on every system.</summary>
    internal static bool IsSafePath(string path) =>
        path.Length is > 0 and <= 1024 && path.AsSpan().IndexOfAny("\\:*?\"<>|") < 0 && !path.Any(char.IsControl)
        && path.Split('/').All(part => part.Length > 0 && part is not ("." or "..") && part.Length <= 250 && !part.EndsWith('.') && !part.EndsWith(' '));

    /// <summary>40 hexadecimal digits.</summary>
    internal static bool IsCommitText(string text) => CommitPattern().IsMatch(text);

    private static bool IsRepository(string name) =>
        name.Length <= LongestName && !name.Contains("--", StringComparison.Ordinal) && !name.Contains("..", StringComparison.Ordinal)
        && name.Split('/').All(part => part[0] is not ('-' or '.') && part[^1] is not ('-' or '.'))
        && !name.EndsWith(".git", StringComparison.Ordinal);

    [GeneratedRegex(@"\A(?<repository>[A-Za-z0-9_.\-]+(/[A-Za-z0-9_.\-]+)?)(@(?<revision>[^@:]+))?(:(?<file>[^:]+))?\z")]
    private static partial Regex Pattern();

    [GeneratedRegex(@"\A[0-9a-f]{40}\z")]
    private static partial Regex CommitPattern();
}
