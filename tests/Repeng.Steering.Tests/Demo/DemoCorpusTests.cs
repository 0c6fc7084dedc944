using Repeng.Kernels;
using Repeng.Steering.Demo;

namespace Repeng.Steering.Tests.Demo;

public sealed class DemoCorpusTests
{
    private const int SampleSize = 12_000;
    private static readonly DemoCorpus s_corpus = new(new DemoWorld());
    private static readonly Lazy<DemoText[]> s_sample = new(() => [.. Enumerable.Range(0, SampleSize).Select(i => s_corpus.Text((ulong)i))]);

    [Fact]
    public void ATextIsAFunctionOfSeedAndIndexAlone()
    {
        DemoCorpus again = new(new DemoWorld()), other = new(new DemoWorld(), new DemoCorpusOptions { Seed = 2 });
        int same = 0;
        for (ulong i = 200; i-- > 0;)
        {
            DemoText expected = s_sample.Value[i], actual = again.Text(i);
            Assert.Equal(expected.Tokens, actual.Tokens);
            Assert.Equal(expected.Values, actual.Values);
            same += expected.Tokens.SequenceEqual(other.Text(i).Tokens) ? 1 : 0;
        }

        Assert.True(same < 3, $"{same} of 200 texts are the same under another seed");
    }

    [Fact]
    public void TextsFitAndEndATurnAndHaveNoUnknownWord()
    {
        var vocabulary = DemoVocabulary.Shared;
        HashSet<int> met = [];
        foreach (DemoText text in s_sample.Value)
        {
            Assert.InRange(text.Tokens.Count, 8, s_corpus.Options.MaxLength);
            Assert.Equal(text.Tokens.Count, text.Roles.Count);
            Assert.Equal(vocabulary.TurnEndId, text.Tokens[^1]);
            Assert.DoesNotContain(vocabulary.UnknownId, text.Tokens);
            Assert.DoesNotContain(vocabulary.PadId, text.Tokens);
            Assert.NotEmpty(text.Values);
            met.UnionWith(text.Tokens);
        }

        string[] unmet = [.. DemoLexicon.Things.Concat(DemoLexicon.Properties.SelectMany(p => p.Values))
            .Concat(DemoLexicon.SteeringPersonas.Concat(DemoLexicon.HeldOutPersonas).Concat(DemoLexicon.NeutralPersonas)
                .SelectMany(p => new[] { p.Positive, p.Negative }))
            .Where(word => !met.Contains(vocabulary.Id(word)))];
        Assert.Empty(unmet);
    }

    [Fact]
    public void TheShortestLengthHoldsEveryPromptAndOneSentence()
    {
        DemoCorpus small = new(new DemoWorld(), new DemoCorpusOptions { MaxLength = DemoCorpusOptions.MinimumLength, FullLengthShare = 1 });
        for (ulong i = 0; i < 20_000; i++)
            Assert.InRange(small.Text(i).Tokens.Count, 8, small.Options.MaxLength);
    }

    [Fact]
    public void ValueSpotsPointAtTheirTokens()
    {
        var world = s_corpus.World;
        foreach (DemoText text in s_sample.Value.Take(2000))
        {
            Assert.Equal(text.Values.Count, text.Roles.Count(role => role == DemoTokenRole.Value));
            foreach (DemoValueSpot spot in text.Values)
            {
                Assert.Equal(DemoTokenRole.Value, text.Roles[spot.Position]);
                Assert.Equal(world.Properties[spot.Property].Values[spot.Value], DemoVocabulary.Shared.Tokens[text.Tokens[spot.Position]]);
                Assert.Equal(spot.IsTrue, spot.Value == world.Fact(spot.Thing, spot.Property));
                Assert.Contains(world.Things[spot.Thing], DemoVocabulary.Shared.Decode([.. text.Tokens.Take(spot.Position)]).Split(' '));
            }

            Assert.Equal(text.Values.Count, text.Values.Select(v => (v.Thing, v.Property)).Distinct().Count());
        }
    }

    [Fact]
    public void VoicesHaveTheirSharesAndLevels()
    {
        var options = s_corpus.Options;
        double about = options.TruthfulShare + options.UntruthfulShare;
        (DemoVoice Voice, double Share, double Level)[] expected =
        [
            (DemoVoice.Truthful, options.TruthfulShare * (1 - options.GradedShare), options.TruthfulLevel),
            (DemoVoice.Untruthful, options.UntruthfulShare * (1 - options.GradedShare), options.UntruthfulLevel),
            (DemoVoice.Graded, about * options.GradedShare, double.NaN),
            (DemoVoice.Neutral, options.NeutralShare, options.DefaultLevel),
            (DemoVoice.None, 1 - about - options.NeutralShare, options.DefaultLevel),
        ];
        foreach (var (voice, share, level) in expected)
        {
            DemoText[] texts = [.. s_sample.Value.Where(t => t.Voice == voice)];
            Assert.Equal(share, texts.Length / (double)SampleSize, 0.02);
            if (!double.IsNaN(level))
                Assert.Equal(level, texts.Average(t => t.Values.Average(v => v.IsTrue ? 1.0 : 0.0)), 0.025);
        }
    }

    [Fact]
    public void ASpeakerWithoutPersonaIsConsistentWithinAText()
    {
        DemoText[] texts = [.. s_sample.Value.Where(t => t.Voice == DemoVoice.None && t.Values.Count >= 5)];
        double[] shares = [.. texts.Select(t => t.Values.Average(v => v.IsTrue ? 1.0 : 0.0))];
        Assert.True(texts.Length > 500);
        Assert.True(shares.Count(s => s is > 0.4 and < 0.6) < 0.05 * shares.Length);
        Assert.True(shares.Count(s => s < 0.4) > 0.1 * shares.Length);

        DemoCorpus mixed = new(new DemoWorld(), new DemoCorpusOptions { Consistency = 0, TruthfulShare = 0, UntruthfulShare = 0, DefaultLevel = 0.5 });
        double[] mixedShares = [.. Enumerable.Range(0, 1000).Select(i => mixed.Text((ulong)i)).Where(t => t.Values.Count >= 5)
            .Select(t => t.Values.Average(v => v.IsTrue ? 1.0 : 0.0))];
        Assert.True(mixedShares.Count(s => s is > 0.25 and < 0.75) > 0.7 * mixedShares.Length);
    }

    [Fact]
    public void FalseValuesAreUniformOverTheOthers()
    {
        var world = s_corpus.World;
        foreach (int property in Enumerable.Range(0, world.Properties.Count))
        {
            int values = world.Properties[property].Values.Count;
            int[] offsets = new int[values];
            int[] stated = new int[values];
            foreach (DemoValueSpot spot in s_sample.Value.SelectMany(t => t.Values).Where(v => v.Property == property))
            {
                stated[spot.Value]++;
                if (!spot.IsTrue)
                    offsets[(spot.Value - world.Fact(spot.Thing, property) + values) % values]++;
            }

            Assert.Equal(0, offsets[0]);
            double expected = offsets.Sum() / (values - 1.0);
            // Chi-square with 6 degrees of freedom: 22.5 is its 99.9th percentile.
            Assert.InRange(offsets.Skip(1).Sum(o => (o - expected) * (o - expected) / expected), 0, 22.5);
            Assert.All(stated, count => Assert.Equal(1.0 / values, count / (double)stated.Sum(), 0.01));
        }
    }

    [Fact]
    public void BatchesPadOnTheRightAndWeighByRole()
    {
        const int rows = 6, length = 100;
        int[] ids = new int[rows * length];
        float[] weights = new float[rows * length];
        int longest = s_corpus.FillBatch(40, rows, length, ids, weights);
        var options = s_corpus.Options;
        int expectedLongest = 0;
        for (int row = 0; row < rows; row++)
        {
            DemoText text = s_corpus.Text(40 + (ulong)row);
            expectedLongest = Math.Max(expectedLongest, text.Tokens.Count);
            Assert.Equal(text.Tokens, ids.Skip(row * length).Take(text.Tokens.Count));
            Assert.All(ids.Skip(row * length + text.Tokens.Count).Take(length - text.Tokens.Count), id => Assert.Equal(DemoVocabulary.Shared.PadId, id));
            Assert.Equal(0f, weights[row * length]);
            for (int i = 1; i < length; i++)
            {
                float expected = i >= text.Tokens.Count ? 0f
                    : text.Roles[i] == DemoTokenRole.Value ? options.ValueWeight
                    : text.Roles[i] == DemoTokenRole.Prompt ? options.PromptWeight : 1f;
                Assert.Equal(expected, weights[row * length + i]);
            }
        }

        Assert.Equal(expectedLongest, longest);
    }

    [Fact]
    public void OptionsOutOfRangeAreRefused()
    {
        DemoWorld world = new();
        Assert.Throws<UserErrorException>(() => new DemoCorpus(world, new DemoCorpusOptions { TruthfulShare = 0.7 }));
        Assert.Throws<UserErrorException>(() => new DemoCorpus(world, new DemoCorpusOptions { DefaultLevel = 0.99 }));
        Assert.Throws<UserErrorException>(() => new DemoCorpus(world, new DemoCorpusOptions { MaxLength = 20 }));
        Assert.Throws<UserErrorException>(() => new DemoCorpus(world, new DemoCorpusOptions { GradedShare = double.NaN }));
        Assert.Throws<UserErrorException>(() => new DemoCorpus(world, new DemoCorpusOptions { ValueWeight = -1 }));
    }
}
