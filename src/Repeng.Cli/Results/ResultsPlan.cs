using System.Reflection;
using System.Security.Cryptography;
using System.Text;
using Repeng.Steering.Models;

namespace Repeng.Cli.Results;

/// <summary>One thing to measure.</summary>
internal sealed record ResultsCell(ResultsTask Task, ResultsMethod Method, ulong Seed, string Settings)
{
    /// <summary>As a record has it.</summary>
    public (string Task, string Method, ulong Seed) Key => (Task.Name, Method.Name, Seed);
}

/// <summary>Everything that a results page is to have.</summary>
/// <param name="Tasks">The tasks.</param>
/// <param name="Methods">The methods.</param>
/// <param name="Seeds">The seeds.</param>
/// <param name="Model">Path of the model of the tasks that are not the demo's; null where there is none.</param>
/// <param name="Budget">Nats of p95 KL.</param>
internal sealed record ResultsPlan(IReadOnlyList<ResultsTask> Tasks, IReadOnlyList<ResultsMethod> Methods, IReadOnlyList<ulong> Seeds, string? Model, double Budget)
{
    // Changes where the same settings would be measured in another way.
    private const int Version = 1;
    private readonly Dictionary<bool, string> _models = [];

    /// <summary>The commit that this program was built from, as the compiler was told.</summary>
    public static string Commit { get; } = typeof(ResultsPlan).Assembly.GetCustomAttribute<AssemblyInformationalVersionAttribute>()?.InformationalVersion.Split('+') is [_, { Length: >= 9 } sha] ? sha[..9] : "unknown";

    /// <summary>
    /// What is to be measured, in the order in which it is: the demo with all seeds, then the other tasks seed by seed, so that a run that is stopped has
    /// whole seeds.
    /// </summary>
    public IReadOnlyList<ResultsCell> Cells() => [.. Ordered(true).Concat(Ordered(false))];

    /// <summary>Name of the file or folder of the model of the tasks that are not the demo's.</summary>
    public string ModelName => Path.GetFileName(Path.TrimEndingDirectorySeparator(Model ?? ""));

    private IEnumerable<ResultsCell> Ordered(bool demo) =>
        from seed in Seeds
        from task in Tasks.Where(t => t.Demo == demo)
        from method in Methods
        select new ResultsCell(task, method, seed, Hash($"{Version} | {task.Describe()} | {method.Name} | {string.Join(' ', method.For(task.Demo))} | seed {seed} | {Budget:R} nat | {ModelHash(task.Demo)}"));

    // Of the weights: the same settings on another model are other settings.
    private string ModelHash(bool demo)
    {
        if (_models.TryGetValue(demo, out string? known))
            return known;
        string path = demo ? ModelBundle.DemoFolder : ModelBundle.Locate(Model!);
        using var sum = IncrementalHash.CreateHash(HashAlgorithmName.SHA256);
        string[] files = File.Exists(path) ? [path] : Directory.GetFiles(path, "*.safetensors");
        foreach (string file in files.Order(StringComparer.Ordinal))
        {
            using FileStream stream = File.OpenRead(file);
            sum.AppendData(SHA256.HashData(stream));
        }
        return _models[demo] = Convert.ToHexStringLower(sum.GetHashAndReset());
    }

    private static string Hash(string text) => Convert.ToHexStringLower(SHA256.HashData(Encoding.UTF8.GetBytes(text)))[..16];
}
