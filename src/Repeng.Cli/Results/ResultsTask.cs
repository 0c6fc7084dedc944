using Repeng.Kernels;
using Repeng.Steering.Data;
using Repeng.Steering.Demo;
using Repeng.Steering.Evaluation;
using Repeng.Steering.Models;

namespace Repeng.Cli.Results;

/// <summary>What is steered and what it is measured by.</summary>
/// <param name="Name">Its name, also for --tasks.</param>
/// <param name="Title">Head of its part of the page.</param>
/// <param name="Demo">On the demo model, else on the one that --model names.</param>
/// <param name="Measure">What the log-odds are of.</param>
internal sealed record ResultsTask(string Name, string Title, bool Demo, string Measure)
{
    /// <summary>Options of train that say on which texts; the seed draws them.</summary>
    public required IReadOnlyList<string> Texts { get; init; }

    /// <summary>Options of train that every adapter has besides its own.</summary>
    public required IReadOnlyList<string> Training { get; init; }

    /// <summary>Blocks that vectors act on, half open, as --layer_range writes them.</summary>
    public required string Blocks { get; init; }

    /// <summary>Questions, evenly taken of all.</summary>
    public required int Questions { get; init; }

    /// <summary>Neutral texts, and tokens of each, that KL is measured on.</summary>
    public required (int Count, int Tokens) Neutral { get; init; }

    /// <summary>Parts of the calibrated coefficients that are measured beside them, on the first seed or on all.</summary>
    public IReadOnlyList<double> Doses { get; init; } = [];

    /// <summary>Whether the parts are measured on every seed.</summary>
    public bool DosesOfAllSeeds { get; init; }

    /// <summary>All tasks.</summary>
    public static IReadOnlyList<ResultsTask> All { get; } =
    [
        new("demo", "Truth on the demo model", true, "the true value against all others of its kind, without a persona")
        {
            Texts = ["--max_pairs", "96"],
            Training = ["--max_pairs", "240", "--n_epochs", "2"],
            Blocks = "1:4",
            Questions = 256,
            Neutral = (8, 64),
            Doses = [0.5],
            DosesOfAllSeeds = true,
        },
        Real("mood", "Happy and sad", "happiness", "the happy answer to yes-or-no questions about mood (`eval --set mood`)"),
        Real("honesty", "Honest and dishonest", "honesty", "the true endings of begun statements (`eval --set truth`, those with endings of one token)"),
    ];

    /// <summary>The tasks of those names; everything for none.</summary>
    public static IReadOnlyList<ResultsTask> Named(IReadOnlyList<string>? names)
    {
        if (names is null)
            return All;
        foreach (string name in names)
            if (!All.Any(t => t.Name == name))
                throw new UserErrorException($"--tasks: '{name}' is no task of the results; there are: {string.Join(", ", All.Select(t => t.Name))}");
        return [.. All.Where(t => names.Contains(t.Name))];
    }

    /// <summary>The questions; positive and negative take turns in the built-in sets, so that an even number keeps both.</summary>
    /// <param name="bundle">The model.</param>
    /// <param name="persona">What is said before, of a real model.</param>
    /// <param name="audience">Personas of the demo's questions.</param>
    public ChoiceItem[] Items(ModelBundle bundle, string? persona = null, DemoAudience audience = DemoAudience.None)
    {
        ChoiceItem[] all = Name switch
        {
            "demo" => DemoItems.Load(new DemoWorld(), audience),
            "mood" => EvalItems.Binary(bundle, BinaryQuestions.Mood, persona),
            _ => EvalItems.Truth(bundle, TruthEvaluation.Items, persona),
        };
        // The two of a twin differ in the side that yes is on: what moves yes alone moves nothing of both together.
        if (Name == "mood")
            all = [.. all.Index().Select(i => i.Item with { Key = all[i.Index / 2 * 2].Key })];
        // Endings of several tokens cost a pass each; which they are does not depend on the persona.
        ChoiceItem[] cheap = [.. all.Where(i => i.True.Concat(i.False).All(c => c.Length == 1))];
        ChoiceItem[] from = cheap.Length >= Questions ? cheap : all;
        return from.Length <= Questions ? from : Name == "mood" ? from[..Questions] : [.. Enumerable.Range(0, Questions).Select(i => from[(int)((long)i * from.Length / Questions)])];
    }

    /// <summary>What the settings of a record say of its task.</summary>
    public string Describe() => string.Join(" | ", Name, string.Join(' ', Texts), string.Join(' ', Training), Blocks, Questions, Neutral, string.Join(' ', Doses), DosesOfAllSeeds);

    private static ResultsTask Real(string name, string title, string personas, string measure) => new(name, title, false, measure)
    {
        Texts = ["--personas", personas, "--max_pairs", "16"],
        Training = ["--max_pairs", "12", "--n_epochs", "1", "--batch_size", "4", "--grad_accum_steps", "1", "--val_split", "0", "--patience", "0", "--target_modules", @".*\.(14|16|18|20|22|24)\..*(gate_proj|down_proj)"],
        Blocks = "14:25",
        Questions = 16,
        Neutral = (8, 12),
    };
}
