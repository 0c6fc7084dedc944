using System.CommandLine;
using Repeng.Kernels;

namespace Repeng.Cli.Verbs;

/// <summary>Several adapters at once: --adapter A B --adapter_weights X Y.</summary>
public static class AdapterOptions
{
    /// <summary>The option of the adapters.</summary>
    public static Option<string[]?> Adapters() => Opt.Paths("--adapter", "PATH", "folder of an adapter that train or PEFT wrote, or a LoRA of llama.cpp (.gguf); several act together, each at the coefficient times its weight");

    /// <summary>The option of their weights.</summary>
    public static Option<double[]?> Weights(string description) => Opt.Numbers("--adapter_weights", description);

    /// <summary>Folders and their weights, 1 where none are given; one weight for each adapter, and none without.</summary>
    public static (string[] Folders, float[] Weights) Read(Session session, ParseResult p, Option<string[]?> adapters, Option<double[]?> weights)
    {
        string[] folders = [.. (p.Given(adapters) ?? []).Select(a => HubModels.Adapter(session, a)!)];
        double[]? given = p.Given(weights);
        if (given is not null && given.Length != folders.Length)
            throw new UserErrorException($"--adapter_weights has {given.Length} number{(given.Length == 1 ? "" : "s")} for {folders.Length} adapter{(folders.Length == 1 ? "" : "s")}; give one for each --adapter");
        if (folders.GroupBy(f => f).FirstOrDefault(g => g.Count() > 1) is { } twice)
            throw new UserErrorException($"--adapter {twice.Key} is given twice; give it once, with the sum as its weight");
        return (folders, given is null ? [.. folders.Select(_ => 1f)] : [.. given.Select(w => (float)w)]);
    }
}
