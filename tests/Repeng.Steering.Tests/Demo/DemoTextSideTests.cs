using System.Text.Json;
using Repeng.Steering.Demo;

namespace Repeng.Steering.Tests.Demo;

public sealed class DemoTextSideTests
{
    private const int Context = DemoTokenizerFiles.MaxLength;
    private static readonly DemoWorld s_world = new();

    [Theory]
    [InlineData("Pretend you're an {persona} person making statements about the world.")]
    [InlineData("Pretend you\u2019re an {persona} person making statements about the world.")]
    [InlineData("Pretend you're an {persona} person. ")]
    public void TheCustomaryTemplateAndPersonasHaveNoUnknownWord(string template)
    {
        foreach (string persona in (string[])["honest", "dishonest", "truthful", "deceptive", "ethical", "untruthful", "moral", "immoral", "happy", "sad"])
            Assert.DoesNotContain(DemoVocabulary.Shared.UnknownId, DemoVocabulary.Shared.Encode(template.Replace("{persona}", persona)));
    }

    [Fact]
    public void EncodingLowersSplitsAndReportsUnknownWords()
    {
        var vocabulary = DemoVocabulary.Shared;
        Assert.Equal("you ' re an honest person : 4 2 .", vocabulary.Decode(vocabulary.Encode("You're an HONEST\n person: 42.")));
        Assert.Equal("the <unk> is <unk> red", vocabulary.Decode(vocabulary.Encode("the zeppelin is \U0001F600red")));
        Assert.Empty(vocabulary.Encode(" \t\n"));
        Assert.Throws<KeyNotFoundException>(() => vocabulary.Id("zeppelin"));
        for (int id = DemoVocabulary.SpecialTokens.Count; id < vocabulary.Count; id++)
            Assert.Equal([id], vocabulary.Encode(vocabulary.Tokens[id]));
    }

    [Fact]
    public void TokenizerFilesDescribeTheVocabulary()
    {
        using JsonDocument tokenizer = JsonDocument.Parse(DemoTokenizerFiles.TokenizerJson());
        var model = tokenizer.RootElement.GetProperty("model");
        Assert.Equal("WordLevel", model.GetProperty("type").GetString());
        var words = model.GetProperty("vocab").EnumerateObject().ToDictionary(p => p.Name, p => p.Value.GetInt32());
        Assert.Equal(DemoVocabulary.Shared.Tokens, words.OrderBy(p => p.Value).Select(p => p.Key));
        foreach (var added in tokenizer.RootElement.GetProperty("added_tokens").EnumerateArray())
            Assert.Equal(DemoVocabulary.Shared.Id(added.GetProperty("content").GetString()!), added.GetProperty("id").GetInt32());

        using JsonDocument config = JsonDocument.Parse(DemoTokenizerFiles.TokenizerConfigJson());
        Assert.Equal(DemoVocabulary.TurnEnd, config.RootElement.GetProperty("eos_token").GetString());
        Assert.Equal(DemoVocabulary.Pad, config.RootElement.GetProperty("pad_token").GetString());
        Assert.Contains("add_generation_prompt", config.RootElement.GetProperty("chat_template").GetString());
        Assert.Equal(DemoVocabulary.SpecialTokens.Count, config.RootElement.GetProperty("added_tokens_decoder").EnumerateObject().Count());
    }

    [Fact]
    public void TokenizerFilesAreWrittenWhole()
    {
        string folder = Directory.CreateTempSubdirectory("repeng-demo-").FullName;
        try
        {
            DemoTokenizerFiles.Write(folder);
            DemoTokenizerFiles.Write(folder);
            Assert.Equal(["tokenizer.json", "tokenizer_config.json"], Directory.GetFiles(folder).Select(f => Path.GetFileName(f)!).Order());
            Assert.Equal(DemoTokenizerFiles.TokenizerJson(), File.ReadAllText(Path.Combine(folder, "tokenizer.json")));
        }
        finally
        {
            Directory.Delete(folder, recursive: true);
        }
    }

    [Fact]
    public void SuffixesSpeakOfSteeringThingsOnlyAndEndBeforeAValue()
    {
        var suffixes = DemoSteering.Suffixes(s_world);
        Assert.Equal(suffixes, DemoSteering.Suffixes(new DemoWorld()));
        Assert.Equal(suffixes.Count, suffixes.Distinct().Count());
        Assert.InRange(suffixes.Count, 200, 400);
        string[] evaluation = [.. s_world.EvaluationThings.Select(t => s_world.Things[t])];
        HashSet<string> spoken = [];
        foreach (string suffix in suffixes)
        {
            string[] words = DemoVocabulary.Shared.Decode(DemoVocabulary.Shared.Encode(suffix)).Split(' ');
            Assert.DoesNotContain(DemoVocabulary.Unknown, words);
            Assert.Empty(words.Intersect(evaluation));
            spoken.UnionWith(words);
            bool list = words is ["about", "the", _, ":", var noun] && s_world.Properties.Any(p => p.Name == noun);
            bool sentence = s_world.SteeringThings.Any(thing => s_world.Properties.Any(p => suffix.EndsWith(s_world.Prefix(p.Statement, thing), StringComparison.Ordinal)));
            Assert.True(list || sentence, $"'{suffix}' does not end before a value");
        }

        Assert.All(s_world.SteeringThings, thing => Assert.Contains(s_world.Things[thing], spoken));
    }

    [Fact]
    public void WholeStatementsInSuffixesAreTrueHalfOfTheTime()
    {
        int truths = 0, falsehoods = 0;
        foreach (string suffix in DemoSteering.Suffixes(s_world))
        {
            foreach (string sentence in suffix.Split('.', StringSplitOptions.TrimEntries)[..^1])
            {
                bool isTrue = s_world.SteeringThings.Any(thing => Enumerable.Range(0, s_world.Properties.Count).Any(p =>
                    sentence == $"{s_world.Prefix(s_world.Properties[p].Statement, thing)} {s_world.TrueValue(thing, p)}"));
                (truths, falsehoods) = isTrue ? (truths + 1, falsehoods) : (truths, falsehoods + 1);
            }
        }

        Assert.InRange(truths, 30, 70);
        Assert.InRange(falsehoods, 30, 70);
    }

    [Fact]
    public void SteeringRowsFitTheContextAndDifferInOneToken()
    {
        foreach (string template in DemoSteering.Templates)
        {
            foreach (var (positive, negative) in DemoSteering.PersonaPairs)
            {
                foreach (string suffix in DemoSteering.Suffixes(s_world))
                {
                    int[] a = Ids(DemoSteering.Chat(template, positive, suffix)), b = Ids(DemoSteering.Chat(template, negative, suffix));
                    Assert.True(a.Length <= Context);
                    Assert.Equal(a.Length, b.Length);
                    Assert.Equal(1, a.Zip(b).Count(pair => pair.First != pair.Second));
                }
            }
        }
    }

    [Theory]
    [InlineData(DemoAudience.None)]
    [InlineData(DemoAudience.SeenTruthful)]
    [InlineData(DemoAudience.SeenUntruthful)]
    [InlineData(DemoAudience.UnseenTruthful)]
    [InlineData(DemoAudience.UnseenUntruthful)]
    [InlineData(DemoAudience.Neutral)]
    public void QuestionsAskForEveryFactThatSteeringDidNotSee(DemoAudience audience)
    {
        var questions = DemoEvaluation.Questions(s_world, audience);
        Assert.Equal(DemoEvaluation.Questions(s_world, DemoAudience.None).Select(q => q.Key), questions.Select(q => q.Key));
        Assert.Equal(2 * s_world.EvaluationThings.Count * s_world.Properties.Count, questions.Select(q => q.Key).Distinct().Count());
        string[] seenPersonas = [.. DemoSteering.PersonaPairs.SelectMany(p => new[] { p.Positive, p.Negative })];
        string[] used = [.. questions.Select(q => q.Persona).OfType<string>().Distinct()];
        Assert.Equal(DemoEvaluation.Personas(audience).Order(), used.Order());
        if (audience is not (DemoAudience.SeenTruthful or DemoAudience.SeenUntruthful))
            Assert.Empty(used.Intersect(seenPersonas));
        string suffixes = $" {string.Join(" ", DemoSteering.Suffixes(s_world))} ";
        foreach (DemoQuestion question in questions)
        {
            Assert.DoesNotContain($" {question.Thing} ", suffixes);
            int property = s_world.Properties.ToList().FindIndex(p => p.Name == question.Property);
            Assert.Equal(s_world.TrueValue(s_world.Things.ToList().IndexOf(question.Thing), property), question.TrueValue);
            Assert.Equal(s_world.Properties[property].Values.Order(), question.OtherValues.Append(question.TrueValue).Order());
            int[] ids = Ids(question.Chat);
            Assert.Equal(ids, DemoTokenizerFiles.EncodeChat(question.Chat, continueFinal: true));
            Assert.True(ids.Length < Context);
            Assert.DoesNotContain(DemoVocabulary.Shared.UnknownId, ids);
            if (question.Persona is null)
                Assert.Empty(DemoVocabulary.Shared.Decode(ids).Split(' ').Intersect(seenPersonas));
            else
                Assert.Contains(DemoVocabulary.Shared.Id(question.Persona), ids);
        }
    }

    [Fact]
    public void AnOpenChatEndsInItsPrefix()
    {
        DemoTurn[] turns = [new("user", "Hello."), new("assistant", "the apple belongs to")];
        Assert.Equal("<|im_start|>user\nHello.<|im_end|>\n<|im_start|>assistant\nthe apple belongs to", DemoTokenizerFiles.Render(turns, continueFinal: true));
        Assert.EndsWith("belongs to<|im_end|>\n", DemoTokenizerFiles.Render(turns, continueFinal: false));
        Assert.Equal([.. Ids(turns), DemoVocabulary.Shared.TurnEndId], DemoTokenizerFiles.EncodeChat(turns, continueFinal: false));
    }

    private static string Tail(string statement) => statement[(statement.IndexOf("{x}", StringComparison.Ordinal) + 3)..^4];

    private static int[] Ids(IEnumerable<DemoTurn> turns)
    {
        // The rendered chat with its marks as single tokens.
        List<int> ids = [];
        string text = DemoTokenizerFiles.Render(turns, continueFinal: true);
        while (text.Length > 0)
        {
            string? mark = DemoVocabulary.SpecialTokens.FirstOrDefault(s => text.StartsWith(s, StringComparison.Ordinal));
            int next = mark is not null ? mark.Length : text.IndexOf("<|", StringComparison.Ordinal) is var i and >= 0 ? i : text.Length;
            ids.AddRange(mark is not null ? [DemoVocabulary.Shared.Id(mark)] : DemoVocabulary.Shared.Encode(text[..next]));
            text = text[next..];
        }

        return [.. ids];
    }
}
