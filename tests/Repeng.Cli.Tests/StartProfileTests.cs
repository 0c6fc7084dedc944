using System.Diagnostics;

namespace Repeng.Cli.Tests;

/// <summary>The profile that one start leaves for the next.</summary>
public sealed class StartProfileTests : IDisposable
{
    private readonly string _folder = Directory.CreateTempSubdirectory().FullName;

    private string Profiles => Path.Combine(_folder, CliApp.Name, "start");

    public void Dispose() => Directory.Delete(_folder, recursive: true);

    [Fact]
    public void A_verb_leaves_a_profile_of_its_name_and_answers_the_same_with_it()
    {
        (int code, string first) = Run(_folder, "plan", "--help");
        Assert.Equal(ExitCodes.Ok, code);
        Assert.Equal("plan", Path.GetFileName(Assert.Single(Directory.GetFiles(Profiles))));
        Assert.Equal((ExitCodes.Ok, first), Run(_folder, "plan", "--help"));
    }

    [Fact]
    public void A_damaged_profile_changes_nothing()
    {
        (_, string whole) = Run(_folder, "plan", "--help");
        string profile = Assert.Single(Directory.GetFiles(Profiles));
        byte[] bytes = File.ReadAllBytes(profile);
        File.WriteAllBytes(profile, bytes[..(bytes.Length / 2)]);
        Assert.Equal((ExitCodes.Ok, whole), Run(_folder, "plan", "--help"));
        new Random(1).NextBytes(bytes);
        File.WriteAllBytes(profile, bytes);
        Assert.Equal((ExitCodes.Ok, whole), Run(_folder, "plan", "--help"));
    }

    [Fact]
    public void What_is_no_verb_leaves_none()
    {
        Assert.Equal(ExitCodes.Usage, Run(_folder, "trian").Code);
        Assert.False(Directory.Exists(Profiles));
    }

    [Fact]
    public void Without_a_cache_the_program_runs_as_well()
    {
        string file = Path.Combine(_folder, "file");
        File.WriteAllText(file, "");
        Assert.Equal(ExitCodes.Ok, Run(file, "plan", "--help").Code);
    }

    private static (int Code, string Output) Run(string cache, params string[] args)
    {
        ProcessStartInfo start = ProgramRun.Start(args);
        start.Environment["XDG_CACHE_HOME"] = cache;
        using Process process = Process.Start(start)!;
        Task<string> error = process.StandardError.ReadToEndAsync(), output = process.StandardOutput.ReadToEndAsync();
        process.WaitForExit();
        return (process.ExitCode, output.Result + error.Result);
    }

    [Fact]
    public void A_folder_that_is_no_whole_path_is_not_made()
    {
        string folder = Path.Combine("start-profile", Guid.NewGuid().ToString("n"));
        StartProfile.Begin(folder, ["train"]);
        Assert.False(Directory.Exists(folder));
    }
}
