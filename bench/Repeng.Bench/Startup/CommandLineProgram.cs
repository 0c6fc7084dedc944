using System.Diagnostics;
using Repeng.Bench.Training;
using Repeng.Kernels;

namespace Repeng.Bench.Startup;

/// <summary>A build of the command line: what the board calls it, how it is started, and what makes it.</summary>
internal sealed record CommandLineProgram(string Name, string[] Command, string Make)
{
    /// <summary>What the program that is compiled ahead of time is called.</summary>
    public const string Native = "NativeAOT";

    /// <summary>The program that is built, and those that tests/publish.sh left in a folder: with the runtime in one file, and compiled ahead of time.</summary>
    public static List<CommandLineProgram> All(string? published)
    {
        var all = new List<CommandLineProgram> { new("JIT", ["dotnet", Path.Combine(Machine.Repository(), "src", "Repeng.Cli", "bin", "Release", "net10.0", "repeng-native.dll")], "dotnet build src/Repeng.Cli -c Release") };
        if (published is null)
        {
            Console.WriteLine("the built program alone; --published FOLDER adds those that `tests/publish.sh --aot FOLDER` made");
            return all;
        }
        string make = $"tests/publish.sh --aot {published}";
        all.Add(new("ReadyToRun", [Path.Combine(published, "linux-x64", "repeng-native")], make));
        all.Add(new(Native, [Path.Combine(published, "aot", "repeng-native")], make));
        return all;
    }

    /// <summary>The program with arguments.</summary>
    public ProcessStartInfo Start(params string[] arguments) => new(Command[0], [.. Command[1..], .. arguments]);

    /// <summary>Refuses a program of another commit, which must not be timed under this one's name; the bench itself builds nothing.</summary>
    public void MustBeOfThisCommit()
    {
        string file = Command[^1];
        if (!File.Exists(file))
            throw new UserErrorException($"{file} is not there; {Make} makes it");
        ProcessStartInfo start = Start("--version");
        start.RedirectStandardOutput = true;
        using Process version = Process.Start(start)!;
        string built = version.StandardOutput.ReadToEnd().Trim(), commit = Machine.Commit().TrimEnd('+');
        version.WaitForExit();
        if (!built.Contains($"+{commit}", StringComparison.Ordinal))
            throw new UserErrorException($"{file} is of {built}, the checkout of {commit}; make it again: {Make}");
    }
}
