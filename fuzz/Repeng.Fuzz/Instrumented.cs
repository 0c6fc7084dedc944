using System.Diagnostics;
using SharpFuzz;

namespace Repeng.Fuzz;

/// <summary>A copy of this program whose readers count their branches, and its run.</summary>
internal static class Instrumented
{
    // Kernels do arithmetic, no reading; counting in them would only cost time.
    private static readonly string[] s_readers =
    [
        "Repeng.Runtime.Formats", "Repeng.Runtime.Tokenizers", "Repeng.Runtime.Chat", "Repeng.Runtime.Logging",
        "Repeng.Steering.Adapters", "Repeng.Steering.Data", "Repeng.Steering.Vectors", "Repeng.Steering.Models", "Repeng.Steering.Training",
    ];

    /// <summary>Makes the copy in a folder that does not exist yet.</summary>
    public static void Make(string folder)
    {
        Directory.CreateDirectory(folder);
        foreach (string file in Directory.GetFiles(AppContext.BaseDirectory))
            File.Copy(file, Path.Combine(folder, Path.GetFileName(file)));
        foreach (string name in new[] { "Repeng.Runtime.dll", "Repeng.Steering.dll" })
            Fuzzer.Instrument(Path.Combine(folder, name), type => s_readers.Any(r => type.StartsWith(r, StringComparison.Ordinal)), Options.Value);
    }

    /// <summary>Runs the copy; its exit code.</summary>
    public static int Run(string folder, IEnumerable<string> args)
    {
        using Process process = Process.Start("dotnet", [Path.Combine(folder, "Repeng.Fuzz.dll"), Program.Inner, .. args]);
        process.WaitForExit();
        return process.ExitCode;
    }
}
