using Repeng.Kernels;

namespace Repeng.Steering.Data;

/// <summary>Opposite persona words, and the instruction that they are put into.</summary>
/// <param name="Name">Name of the set.</param>
/// <param name="Template">The user's instruction, with <c>{persona}</c> in it.</param>
/// <param name="Positive">Words at the positive end.</param>
/// <param name="Negative">Words at the negative end, as many; the i-th is paired with the i-th positive one.</param>
/// <param name="SuffixSets">Names of the suffix sets that suit it.</param>
public sealed record PersonaSet(
    string Name, string Template, IReadOnlyList<string> Positive, IReadOnlyList<string> Negative, IReadOnlyList<string> SuffixSets)
{
    /// <summary>Names of the suffix sets that suit it where suffixes stand inside of a thinking model's block of thoughts.</summary>
    public required IReadOnlyList<string> ThinkingSuffixSets { get; init; }
}

/// <summary>The built-in sets of personas for real models; the demo has its own in <see cref="Demo.DemoSteering"/>.</summary>
public static class PersonaSets
{
    private const string CustomaryTemplate = "Pretend you're an {persona} person making statements about the world.";

    /// <summary>The sets; the first is the default.</summary>
    public static IReadOnlyList<PersonaSet> All { get; } =
    [
        new("honesty", CustomaryTemplate,
            ["honest", "truthful", "ethical", "moral"], ["dishonest", "deceptive", "untruthful", "immoral"],
            ["code", "facts", "reasoning", "statements"]) { ThinkingSuffixSets = ["reasoning", "thoughts"] },
        new("happiness", "Pretend you're a very {persona} person talking about your day.",
            ["happy", "cheerful", "joyful", "optimistic"], ["sad", "gloomy", "miserable", "pessimistic"],
            ["feelings"]) { ThinkingSuffixSets = ["thoughts_of_mood"] },
        new("care", "Pretend you're a very {persona} person working out the answer to a question.",
            ["careful", "thorough", "patient", "doubtful"], ["careless", "superficial", "hasty", "overconfident"],
            ["code", "reasoning"]) { ThinkingSuffixSets = ["reasoning", "thoughts"] },
    ];

    /// <summary>The set of that name.</summary>
    /// <exception cref="UserErrorException">There is none.</exception>
    public static PersonaSet Load(string name) => All.FirstOrDefault(set => set.Name == name)
        ?? throw new UserErrorException($"no persona set '{name}'; there are {string.Join(", ", All.Select(set => set.Name))}");
}
