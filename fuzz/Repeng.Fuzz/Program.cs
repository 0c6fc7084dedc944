using System.Globalization;
using Repeng.Kernels;

namespace Repeng.Fuzz;

/// <summary>fuzz READER…: damaged inputs for the readers of files, guided by the branches that they reach.</summary>
internal static unsafe class Program
{
    /// <summary>Says that this is the instrumented copy.</summary>
    public const string Inner = "--inner";

    private const string Usage = """
        usage: dotnet run -c Release --project fuzz/Repeng.Fuzz -- READER… [options]
          READER          one or several of the readers below, or all
          --runs N        damaged inputs for each (1000000)
          --seconds S     at most so long for each
          --seed N        of the damage (1)
          --save          keep inputs that reached new branches in fuzz/corpus
          --state FOLDER  keep counts and inputs there every few seconds, and go on from what is there
          --replay FILE   one input instead
        """;

    public static int Main(string[] args)
    {
        byte* map = null;
        if (args is [Inner, .. var rest])
        {
            // Before anything instrumented runs.
            map = (byte*)System.Runtime.InteropServices.NativeMemory.AllocZeroed(1 << 16);
            SharpFuzz.Common.Trace.SharedMem = map;
            args = rest;
        }
        try
        {
            return Run(args, map);
        }
        catch (UserErrorException e)
        {
            Console.Error.WriteLine($"error: {e.Message}");
            return 2;
        }
    }

    private static int Run(string[] args, byte* map)
    {
        var settings = new FuzzSettings();
        var names = new List<string>();
        string? replay = null;
        for (int i = 0; i < args.Length; i++)
        {
            string Value() => ++i < args.Length ? args[i] : throw new UserErrorException($"{args[i - 1]} needs a value");
            double Number() => double.TryParse(Value(), CultureInfo.InvariantCulture, out double x) && x >= 0 ? x : throw new UserErrorException($"{args[i - 1]} needs a number, not '{args[i]}'");
            switch (args[i])
            {
                case "--runs": settings = settings with { Runs = (long)Number() }; break;
                case "--seconds": settings = settings with { Seconds = Number() }; break;
                case "--seed": settings = settings with { Seed = (int)Number() }; break;
                case "--state": settings = settings with { State = Value() }; break;
                case "--save": settings = settings with { Save = true }; break;
                case "--replay": replay = Value(); break;
                case var name when FuzzTargets.All.Any(t => t.Name == name): names.Add(name); break;
                case "all": names.AddRange(FuzzTargets.All.Select(t => t.Name)); break;
                default: throw new UserErrorException($"'{args[i]}' is no reader and no option; readers are {string.Join(", ", FuzzTargets.All.Select(t => t.Name))}, all");
            }
        }
        if (names.Count == 0)
        {
            Console.WriteLine(Usage);
            Console.WriteLine($"readers: {string.Join(", ", FuzzTargets.All.Select(t => t.Name))}");
            return 2;
        }
        string work = WorkFolder();
        try
        {
            if (replay is not null)
                return Replay(names[0], replay, work);
            if (map != null)
                return new FuzzLoop(FuzzTargets.All.Single(t => t.Name == names[0]), settings, work, map).Go() > 0 ? 1 : 0;
            string copy = Path.Combine(work, "program");
            Instrumented.Make(copy);
            int worst = 0;
            // A process for each: a reader that overflows the stack takes only its own with it.
            foreach (string name in names)
            {
                int code = Instrumented.Run(copy, args.Where(a => a != "all" && FuzzTargets.All.All(t => t.Name != a)).Prepend(name));
                if (code > 1)
                    Console.WriteLine($"{name}: FAULT the process ended with code {code}; its last input lies in its repeng-fuzz- folder in {Path.GetDirectoryName(work)}");
                worst = Math.Max(worst, code);
            }
            return worst == 0 ? 0 : 1;
        }
        finally
        {
            // A reader that took its process with it leaves its folder, and so its last input.
            Directory.Delete(work, recursive: true);
        }
    }

    /// <summary>In memory where the system offers that: each input is a file that is written and read once, and a disk would be nine tenths of the time.</summary>
    private static string WorkFolder()
    {
        const string Memory = "/dev/shm";
        return Directory.Exists(Memory)
            ? Directory.CreateDirectory(Path.Combine(Memory, "repeng-fuzz-" + Path.GetRandomFileName())).FullName
            : Directory.CreateTempSubdirectory("repeng-fuzz-").FullName;
    }

    private static int Replay(string name, string file, string work)
    {
        FuzzTarget target = FuzzTargets.All.Single(t => t.Name == name);
        string? fault = FuzzTarget.Judge(target.Open(work), File.ReadAllBytes(file), work);
        Console.WriteLine(fault ?? "no fault");
        return fault is null ? 0 : 1;
    }
}
