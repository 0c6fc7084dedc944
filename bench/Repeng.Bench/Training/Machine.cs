using System.Diagnostics;

namespace Repeng.Bench.Training;

/// <summary>What a board of results names: processor, load, commit.</summary>
internal static class Machine
{
    public static string Cpu { get; } = File.ReadLines("/proc/cpuinfo").FirstOrDefault(l => l.StartsWith("model name", StringComparison.Ordinal))?.Split(':', 2)[1].Trim() ?? "unnamed processor";

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
