namespace Repeng.Steering.Demo;

/// <summary>Under which persona the questions of an evaluation are put.</summary>
public enum DemoAudience
{
    /// <summary>No persona: the measure that counts.</summary>
    None,

    /// <summary>Truthful personas that steering was trained on, in an instruction it was trained on.</summary>
    SeenTruthful,

    /// <summary>Untruthful personas that steering was trained on, in an instruction it was trained on.</summary>
    SeenUntruthful,

    /// <summary>Truthful personas that steering never saw, in instructions it never saw.</summary>
    UnseenTruthful,

    /// <summary>Untruthful personas that steering never saw, in instructions it never saw.</summary>
    UnseenUntruthful,

    /// <summary>Personas that leave truth alone (happy, loud, …), which steering never saw, in instructions it never saw.</summary>
    Neutral,
}

/// <summary>One question: how likely is the true value, against all others of its kind, as the next token?</summary>
/// <param name="Key">"thing/property/style": the same in every audience, so that questions pair up.</param>
/// <param name="Thing">The thing's name.</param>
/// <param name="Property">The property's name.</param>
/// <param name="Persona">The persona word, if any.</param>
/// <param name="Messages">The chat before the answer.</param>
/// <param name="AssistantPrefix">The begun answer; its next token is the value.</param>
/// <param name="TrueValue">The true value: one token.</param>
/// <param name="OtherValues">All other values of the property: one token each.</param>
public sealed record DemoQuestion(
    string Key, string Thing, string Property, string? Persona, IReadOnlyList<DemoTurn> Messages, string AssistantPrefix,
    string TrueValue, IReadOnlyList<string> OtherValues)
{
    /// <summary>The messages with the begun answer as the last one.</summary>
    public IReadOnlyList<DemoTurn> Chat => [.. Messages, new DemoTurn("assistant", AssistantPrefix)];
}

/// <summary>Questions about things that no steering suffix speaks of.</summary>
public static class DemoEvaluation
{
    /// <summary>
    /// Every evaluation thing and property, as a statement to go on with and as a question to answer:
    /// 2 · things · properties questions, in a fixed order.
    /// </summary>
    /// <param name="world">The world.</param>
    /// <param name="audience">Which personas to ask under; they take turns over the questions.</param>
    /// <param name="things">The things to ask about; <see cref="DemoWorld.EvaluationThings"/> if null.</param>
    public static IReadOnlyList<DemoQuestion> Questions(DemoWorld world, DemoAudience audience, IReadOnlyList<int>? things = null)
    {
        string[] personas = Personas(audience);
        var templates = audience is DemoAudience.SeenTruthful or DemoAudience.SeenUntruthful
            ? DemoSteering.Templates
            : DemoSteering.HeldOutTemplates;
        List<DemoQuestion> questions = [];
        foreach (int thing in things ?? world.EvaluationThings)
        {
            int row = questions.Count / (2 * world.Properties.Count);
            for (int property = 0; property < world.Properties.Count; property++)
            {
                // One persona for both styles, so that the styles differ in nothing else; the steps of persona and
                // template differ, so that every template meets every property and many personas.
                int turn = row + property;
                string? persona = personas.Length == 0 ? null : personas[turn % personas.Length];
                string? instruction = persona is null ? null : Instruction(templates[(turn + row) % templates.Count], persona);
                questions.Add(Question(world, thing, property, persona, instruction, asks: false, turn));
                questions.Add(Question(world, thing, property, persona, instruction, asks: true, turn));
            }
        }

        return questions;
    }

    /// <summary>The persona words of an audience; none for <see cref="DemoAudience.None"/>.</summary>
    public static string[] Personas(DemoAudience audience) => audience switch
    {
        DemoAudience.None => [],
        DemoAudience.SeenTruthful => [.. DemoLexicon.SteeringPersonas.Select(p => p.Positive)],
        DemoAudience.SeenUntruthful => [.. DemoLexicon.SteeringPersonas.Select(p => p.Negative)],
        DemoAudience.UnseenTruthful => [.. DemoLexicon.HeldOutPersonas.Select(p => p.Positive)],
        DemoAudience.UnseenUntruthful => [.. DemoLexicon.HeldOutPersonas.Select(p => p.Negative)],
        DemoAudience.Neutral => [.. DemoLexicon.NeutralPersonas.Except(DemoLexicon.MiddlePersonas).SelectMany(p => new[] { p.Positive, p.Negative })],
        _ => throw new ArgumentOutOfRangeException(nameof(audience), audience, "not an audience"),
    };

    private static DemoQuestion Question(
        DemoWorld world, int thing, int property, string? persona, string? instruction, bool asks, int turn)
    {
        DemoProperty about = world.Properties[property];
        string request = asks
            ? about.Question.Replace("{x}", world.Things[thing], StringComparison.Ordinal)
            : DemoLexicon.PlainInstructions[turn % DemoLexicon.PlainInstructions.Count];
        string user = (instruction, asks) switch
        {
            (null, _) => request,
            (_, true) => $"{instruction} {request}",
            (_, false) => instruction,
        };
        string truth = world.TrueValue(thing, property);
        return new DemoQuestion(
            $"{world.Things[thing]}/{about.Name}/{(asks ? "question" : "statement")}", world.Things[thing], about.Name, persona,
            [new DemoTurn("user", user)], world.Prefix(about.Statement, thing), truth, [.. about.Values.Where(v => v != truth)]);
    }

    private static string Instruction(string template, string persona)
    {
        bool vowel = "aeiou".Contains(persona[0], StringComparison.Ordinal);
        return template.Replace("an {persona}", $"{(vowel ? "an" : "a")} {persona}", StringComparison.Ordinal);
    }
}
