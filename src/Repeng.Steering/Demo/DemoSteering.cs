using Repeng.Kernels;

namespace Repeng.Steering.Demo;

/// <summary>
/// What steering trains on in the demo world: begun statements about the steering things, put into an
/// assistant's mouth under pairs of opposite personas.
/// </summary>
public static class DemoSteering
{
    /// <summary>
    /// Persona pairs (positive, negative): each truthful word against one that leaves truth alone, and one that leaves truth alone
    /// against each untruthful word. A loss sees only the difference of a pair's two texts; opposite words alone let it be content
    /// with a gain on the axis between them, which does nothing to a speaker in the middle. These pairs have the middle in them.
    /// </summary>
    public static IReadOnlyList<(string Positive, string Negative)> PersonaPairs { get; } =
        [.. DemoLexicon.SteeringPersonas.SelectMany((p, i) =>
        {
            DemoPersonaPair middle = DemoLexicon.MiddlePersonas[i % DemoLexicon.MiddlePersonas.Count];
            return new[] { (p.Positive, middle.Positive), (middle.Negative, p.Negative) };
        })];

    /// <summary>Persona pairs that leave truth alone and are not in <see cref="PersonaPairs"/>: controls for a direction of truth.</summary>
    public static IReadOnlyList<(string Positive, string Negative)> ControlPairs { get; } =
        [.. DemoLexicon.NeutralPersonas.Except(DemoLexicon.MiddlePersonas).Select(p => (p.Positive, p.Negative))];

    /// <summary>
    /// User instructions with <c>{persona}</c> in them. The article is "an" throughout, as is customary:
    /// a pair then differs in one word.
    /// </summary>
    public static IReadOnlyList<string> Templates { get; } =
        [.. DemoLexicon.PersonaInstructions.Take(DemoLexicon.SteeringInstructionCount).Select(ToTemplate)];

    /// <summary>Instructions that steering never sees, with <c>{persona}</c> in them.</summary>
    public static IReadOnlyList<string> HeldOutTemplates { get; } =
        [.. DemoLexicon.PersonaInstructions.Skip(DemoLexicon.SteeringInstructionCount).Select(ToTemplate)];

    /// <summary>
    /// The suffixes, in a fixed shuffled order: every steering thing and property as a bare statement, once more
    /// after an opener or after one or two whole statements, and as a list; each ends right before a value.
    /// Of the whole statements before it every other one is false, so that the suffix itself speaks for neither persona.
    /// </summary>
    public static IReadOnlyList<string> Suffixes(DemoWorld world)
    {
        PhiloxSequence draw = new(world.Seed, DemoStreams.Suffixes);
        List<string> suffixes = [];
        for (int row = 0; row < world.SteeringThings.Count; row++)
        {
            int thing = world.SteeringThings[row];
            for (int property = 0; property < world.Properties.Count; property++)
            {
                string bare = world.Prefix(world.Properties[property].Statement, thing);
                suffixes.Add(bare);
                switch ((row + property) % 4)
                {
                    case 0 or 1:
                        suffixes.Add($"{draw.Pick(DemoLexicon.Openers)} {bare}");
                        break;
                    case 2:
                        suffixes.Add($"{Statement(world, draw, thing, isTrue: draw.NextBool(0.5))} {bare}");
                        break;
                    default:
                        bool firstIsTrue = draw.NextBool(0.5);
                        suffixes.Add($"{Statement(world, draw, thing, firstIsTrue)} {Statement(world, draw, thing, !firstIsTrue)} {bare}");
                        break;
                }
            }

            string noun = world.Properties[draw.NextInt(world.Properties.Count)].Name;
            suffixes.Add($"{DemoLexicon.ListHead.Replace("{x}", world.Things[thing], StringComparison.Ordinal)} {noun}");
        }

        string[] order = [.. suffixes];
        draw.Shuffle<string>(order);
        return order;
    }

    /// <summary>The chat of one row of steering data: the persona as the user's instruction, the suffix as the begun answer.</summary>
    /// <param name="template">An instruction with <c>{persona}</c> in it.</param>
    /// <param name="persona">The persona word.</param>
    /// <param name="suffix">The begun answer.</param>
    public static IReadOnlyList<DemoTurn> Chat(string template, string persona, string suffix) =>
        [new("user", template.Replace("{persona}", persona, StringComparison.Ordinal)), new("assistant", suffix)];

    private static string ToTemplate(string instruction) =>
        instruction.Replace("{a} {p}", "an {persona}", StringComparison.Ordinal);

    private static string Statement(DemoWorld world, PhiloxSequence draw, int butNot, bool isTrue)
    {
        int thing;
        do
            thing = draw.Pick(world.SteeringThings);
        while (thing == butNot);
        int property = draw.NextInt(world.Properties.Count);
        int value = isTrue ? world.Fact(thing, property) : world.DrawFalse(draw, thing, property);
        DemoProperty about = world.Properties[property];
        return $"{world.Prefix(about.Statement, thing)} {about.Values[value]}.";
    }
}
