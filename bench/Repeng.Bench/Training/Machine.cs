using System.Diagnostics;

namespace Repeng.Bench.Training;

/// <summary>What a board of results names: processor, load, commit.</summary>
internal static class Machine
{
    /// <summary>Name of the processor with family and model: "AMD EPYC" alone is said by processors of several generations.</summary>
    public static string Cpu { get; } = Field("model name") is { } name
        ? Field("cpu family") is { } family && Field("model") is { } model ? $"{name} (family {family} model {model})" : name
        : "unnamed processor";

    private static string? Field(string name) => File.ReadLines("/proc/cpuinfo").Select(l => l.Split(':', 2)).FirstOrDefault(p => p.Length == 2 && p[0].Trim() == name)?[1].Trim();

    public static string Load() => string.Join(' ', File.ReadAllText("/proc/loadavg").Split(' ')[..3]);

    /// <summary>Short hash of the checked-out commit; "+" where files differ from it.</summary>
    public static string Commit()
    {
        string hash = Git("rev-parse", "--short", "HEAD");
        return hash.Length == 0 ? "unknown" : Git("status", "--porcelain", "--untracked-files=no").Length > 0 ? hash + "+" : hash;
    }

    /// <summary>Root of the checkout that the bench runs in.</summary>
    public static string Repository() => Git("rev-parse", "--show-toplevel") is { Length: > 0 } root ? root : throw new Repeng.Kernels.UserErrorException("the bench must be run inside of its git checkout");

    private static string Git(params string[] arguments)
    {
        using var git = Process.Start(new ProcessStartInfo("git", arguments) { RedirectStandardOutput = true, RedirectStandardError = true })!;
        string text = git.StandardOutput.ReadToEnd().Trim();
        git.WaitForExit();
        return git.ExitCode == 0 ? text : "";
    }
}
