using System.Text.Json;
using System.Text.Json.Nodes;
using Repeng.Kernels;

namespace Repeng.Steering.Data;

/// <summary>A question that is answered with yes or no.</summary>
/// <param name="Question">The question, with its question mark.</param>
/// <param name="Yes">Whether yes is the true answer.</param>
public sealed record BinaryQuestion(string Question, bool Yes);

/// <summary>Yes-or-no questions, half of them with the answer yes, each beside one that differs in a word or two.</summary>
public static class BinaryQuestions
{
    private static readonly Lazy<IReadOnlyList<BinaryQuestion>> s_mood = new(() => Parse(SuffixSets.ReadResource("mood.jsonl").Split('\n'), "built-in questions about mood"));

    /// <summary>Questions about the answerer's mood: "true" is the answer of a happy one.</summary>
    public static IReadOnlyList<BinaryQuestion> Mood => s_mood.Value;

    /// <summary>Questions of common knowledge.</summary>
    public static IReadOnlyList<BinaryQuestion> Items { get; } =
    [
        new("Is Paris the capital of France?", true),
        new("Is Madrid the capital of France?", false),
        new("Is ice colder than steam?", true),
        new("Is steam colder than ice?", false),
        new("Do fish live in water?", true),
        new("Do cows live in water?", false),
        new("Is two plus two equal to four?", true),
        new("Is two plus two equal to five?", false),
        new("Is the sun larger than the moon?", true),
        new("Is the moon larger than the sun?", false),
        new("Do birds have feathers?", true),
        new("Do dogs have feathers?", false),
        new("Is an elephant heavier than a mouse?", true),
        new("Is a mouse heavier than an elephant?", false),
        new("Does Monday come before Tuesday?", true),
        new("Does Friday come before Tuesday in the same week?", false),
        new("Is fresh snow white?", true),
        new("Is fresh snow black?", false),
        new("Can people read books?", true),
        new("Can stones read books?", false),
        new("Is a triangle a shape with three sides?", true),
        new("Is a triangle a shape with six sides?", false),
        new("Do bees make honey?", true),
        new("Do spiders make honey?", false),
    ];

    /// <summary>Reads one JSON object a line: {"question": "…?", "answer": "yes" or "no"}.</summary>
    public static IReadOnlyList<BinaryQuestion> Load(string path)
    {
        if (!File.Exists(path))
            throw new UserErrorException($"{path}: no such file; give JSON lines such as {{\"question\": \"Is ice cold?\", \"answer\": \"yes\"}}");
        return Parse(File.ReadLines(path), path);
    }

    private static List<BinaryQuestion> Parse(IEnumerable<string> lines, string path)
    {
        var questions = new List<BinaryQuestion>();
        int line = 0;
        foreach (string text in lines)
        {
            line++;
            if (text.Trim().Length == 0)
                continue;
            questions.Add(Parse(text) ?? throw new UserErrorException($"{path}, line {line}: needed is {{\"question\": \"…\", \"answer\": \"yes\" or \"no\"}}, found {(text.Length > 80 ? text[..80] + "…" : text)}"));
        }
        return questions.Count > 0 ? questions : throw new UserErrorException($"{path}: no question in the file");
    }

    private static BinaryQuestion? Parse(string line)
    {
        try
        {
            return JsonNode.Parse(line) is JsonObject json && json["question"] is JsonValue q && q.TryGetValue(out string? question) && question.Length > 0
                && json["answer"] is JsonValue a && a.TryGetValue(out string? answer) && answer.ToLowerInvariant() is "yes" or "no"
                ? new BinaryQuestion(question, string.Equals((string?)json["answer"], "yes", StringComparison.OrdinalIgnoreCase))
                : null;
        }
        catch (JsonException)
        {
            // The caller names file, line and what is needed.
            return null;
        }
    }
}
