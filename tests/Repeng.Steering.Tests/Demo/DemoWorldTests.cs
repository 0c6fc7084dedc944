using Repeng.Steering.Demo;

namespace Repeng.Steering.Tests.Demo;

public sealed class DemoWorldTests
{
    private static readonly DemoWorld s_world = new();

    [Fact]
    public void TheSameSeedGivesTheSameWorldAndAnotherSeedAnotherOne()
    {
        DemoWorld again = new(), other = new(DemoWorld.DefaultSeed + 1);
        int different = 0;
        for (int thing = 0; thing < s_world.Things.Count; thing++)
        {
            for (int property = 0; property < s_world.Properties.Count; property++)
            {
                Assert.Equal(s_world.Fact(thing, property), again.Fact(thing, property));
                different += s_world.Fact(thing, property) != other.Fact(thing, property) ? 1 : 0;
            }
        }

        Assert.Equal(s_world.SteeringThings, again.SteeringThings);
        Assert.NotEqual(s_world.SteeringThings, other.SteeringThings);
        Assert.True(different > 100, $"only {different} facts differ between two seeds");
    }

    [Fact]
    public void EveryValueIsTrueOfEquallyManyThings()
    {
        for (int property = 0; property < s_world.Properties.Count; property++)
        {
            int values = s_world.Properties[property].Values.Count;
            int[] counts = new int[values];
            for (int thing = 0; thing < s_world.Things.Count; thing++)
                counts[s_world.Fact(thing, property)]++;
            Assert.All(counts, count => Assert.Equal(s_world.Things.Count / values, count));
        }
    }

    [Fact]
    public void ThingsAreSplitIntoTwoDisjointHalves()
    {
        Assert.Empty(s_world.SteeringThings.Intersect(s_world.EvaluationThings));
        Assert.Equal(Enumerable.Range(0, s_world.Things.Count), s_world.SteeringThings.Concat(s_world.EvaluationThings).Order());
        Assert.InRange(s_world.EvaluationThings.Count, 30, 40);
    }

    [Fact]
    public void WordsMeanOneThingEach()
    {
        string[] values = [.. s_world.Properties.SelectMany(p => p.Values)];
        string[] personas = [.. Pairs().SelectMany(p => new[] { p.Positive, p.Negative })];
        string[] meaningful = [.. values, .. s_world.Things, .. personas, .. s_world.Properties.Select(p => p.Name)];
        Assert.Equal(meaningful.Length, meaningful.Distinct().Count());
        Assert.All(meaningful, word => Assert.Single(DemoVocabulary.Shared.Encode(word)));
        Assert.All(s_world.Properties, p => Assert.Equal(s_world.Properties[0].Values.Count, p.Values.Count));
    }

    [Fact]
    public void HeldOutPersonasAreNotAmongThoseOfSteering()
    {
        string[] steering = [.. DemoLexicon.SteeringPersonas.SelectMany(p => new[] { p.Positive, p.Negative })];
        string[] others = [.. DemoLexicon.HeldOutPersonas.Concat(DemoLexicon.NeutralPersonas).SelectMany(p => new[] { p.Positive, p.Negative })];
        Assert.Empty(steering.Intersect(others));
        Assert.Empty(DemoSteering.Templates.Intersect(DemoSteering.HeldOutTemplates));
        Assert.NotEmpty(DemoSteering.HeldOutTemplates);
    }

    [Fact]
    public void EveryWordingAsksForItsValueLast()
    {
        foreach (var property in s_world.Properties)
        {
            Assert.DoesNotContain("{", s_world.Prefix(property.Statement, 0));
            Assert.DoesNotContain("{", s_world.Prefix(property.Alternative, 0));
            Assert.Throws<ArgumentException>(() => s_world.Prefix(property.Question, 0));
        }
    }

    private static IEnumerable<DemoPersonaPair> Pairs() =>
        DemoLexicon.SteeringPersonas.Concat(DemoLexicon.HeldOutPersonas).Concat(DemoLexicon.NeutralPersonas);
}
