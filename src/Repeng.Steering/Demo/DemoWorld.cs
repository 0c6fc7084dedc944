using Repeng.Kernels;

namespace Repeng.Steering.Demo;

/// <summary>
/// The closed world of the demo: things, properties, and one true value for each of them, drawn from a seed.
/// Every value of a property is true of equally many things, so no value is likelier than another a priori.
/// </summary>
public sealed class DemoWorld
{
    /// <summary>Seed of the world that ships.</summary>
    public const ulong DefaultSeed = 42;

    private readonly int[,] _facts;

    /// <summary>Draws a world.</summary>
    /// <param name="seed">Seed of the facts and of the split of the things.</param>
    public DemoWorld(ulong seed = DefaultSeed)
    {
        Seed = seed;
        int things = Things.Count;
        _facts = new int[things, Properties.Count];
        for (int property = 0; property < Properties.Count; property++)
        {
            int values = Properties[property].Values.Count;
            int[] deck = [.. Enumerable.Range(0, things).Select(i => i % values)];
            new PhiloxSequence(seed, DemoStreams.Facts + (ulong)property).Shuffle<int>(deck);
            for (int thing = 0; thing < things; thing++)
                _facts[thing, property] = deck[thing];
        }

        int[] order = [.. Enumerable.Range(0, things)];
        new PhiloxSequence(seed, DemoStreams.Split).Shuffle<int>(order);
        SteeringThings = [.. order[..(things / 2)].Order()];
        EvaluationThings = [.. order[(things / 2)..].Order()];
    }

    /// <summary>The seed.</summary>
    public ulong Seed { get; }

    /// <summary>Names of the things; a thing is known by its place here.</summary>
    public IReadOnlyList<string> Things => DemoLexicon.Things;

    /// <summary>The properties; a property is known by its place here.</summary>
    public IReadOnlyList<DemoProperty> Properties => DemoLexicon.Properties;

    /// <summary>Things that steering suffixes may speak of.</summary>
    public IReadOnlyList<int> SteeringThings { get; }

    /// <summary>Things that no steering suffix speaks of: all the others.</summary>
    public IReadOnlyList<int> EvaluationThings { get; }

    /// <summary>Place of the true value among the property's values.</summary>
    public int Fact(int thing, int property) => _facts[thing, property];

    /// <summary>The true value as a word.</summary>
    public string TrueValue(int thing, int property) => Properties[property].Values[_facts[thing, property]];

    /// <summary>A statement up to, and without, its value.</summary>
    /// <param name="wording">A wording of <see cref="DemoProperty"/> that ends in <c>{v}</c>.</param>
    /// <param name="thing">The thing.</param>
    public string Prefix(string wording, int thing)
    {
        if (!wording.EndsWith(" {v}", StringComparison.Ordinal))
            throw new ArgumentException($"the wording '{wording}' does not end in its value", nameof(wording));
        return wording[..^4].Replace("{x}", Things[thing], StringComparison.Ordinal);
    }

    /// <summary>A value other than the true one, each as likely as the others.</summary>
    internal int DrawFalse(PhiloxSequence draw, int thing, int property)
    {
        int value = draw.NextInt(Properties[property].Values.Count - 1);
        return value < _facts[thing, property] ? value : value + 1;
    }
}

/// <summary>Stream numbers of the demo's random draws, far enough apart never to meet.</summary>
internal static class DemoStreams
{
    public const ulong Facts = 1ul << 56;
    public const ulong Split = 2ul << 56;
    public const ulong Texts = 3ul << 56;
    public const ulong Suffixes = 4ul << 56;
}
