using System.Text;
using Repeng.Kernels;
using Repeng.Steering.Data;

namespace Repeng.Steering.Tests.Data;

public sealed class DataTests
{
    [Fact]
    public void EverySetLoadsAndRepeatsNothing()
    {
        HashSet<string> all = new(StringComparer.OrdinalIgnoreCase);
        Assert.Equal(SuffixSets.Names.Distinct().Order(StringComparer.Ordinal), SuffixSets.Names);
        foreach (string name in SuffixSets.Names)
        {
            var suffixes = SuffixSets.Load(name);
            Assert.True(suffixes.Count >= 40, $"{name} has {suffixes.Count}");
            Assert.NotEmpty(SuffixSets.Describe(name));
            foreach (string suffix in suffixes)
            {
                Assert.True(suffix.Length is > 5 and < 160 && suffix == suffix.Trim() && !suffix.Contains("  ", StringComparison.Ordinal), $"{name}: '{suffix}'");
                Assert.True(all.Add(suffix), $"{name}: '{suffix}' occurs twice");
            }
        }
    }

    [Fact]
    public void EveryResourceIsASetThatHasAName()
    {
        string[] files = [.. typeof(SuffixSets).Assembly.GetManifestResourceNames().Where(n => n.StartsWith("Repeng.Steering.Data.", StringComparison.Ordinal))];
        Assert.Equal(
            SuffixSets.Names.Where(n => n != SuffixSets.DemoName).Append("truth-evaluation").Append("neutral").Select(n => $"Repeng.Steering.Data.{n}.json").Append("Repeng.Steering.Data.dilemmas.jsonl").Append("Repeng.Steering.Data.mood.jsonl").Order(StringComparer.Ordinal),
            files.Order(StringComparer.Ordinal));
    }

    [Fact]
    public void BegunSentencesHaveNoEndAndFactsHaveOne()
    {
        Assert.All(SuffixSets.Load("facts"), s => Assert.EndsWith(".", s));
        foreach (string name in (string[])["statements", "feelings", "code", "demo", "thoughts", "thoughts_of_mood"])
            Assert.All(SuffixSets.Load(name), s => Assert.DoesNotContain(s[^1], ".!?"));
    }

    [Fact]
    public void PersonaSetsArePairedAndNameTheirSuffixes()
    {
        foreach (PersonaSet set in PersonaSets.All)
        {
            Assert.Same(set, PersonaSets.Load(set.Name));
            Assert.Contains("{persona}", set.Template);
            Assert.Equal(set.Positive.Count, set.Negative.Count);
            Assert.Empty(set.Positive.Intersect(set.Negative));
            Assert.All(set.SuffixSets.Concat(set.ThinkingSuffixSets), name => Assert.NotEmpty(SuffixSets.Load(name)));
            Assert.NotEmpty(set.ThinkingSuffixSets);
        }

        Assert.Contains("honesty", Assert.Throws<UserErrorException>(() => PersonaSets.Load("nobody")).Message);
    }

    [Fact]
    public void TruthItemsHaveDistinctPrefixesAndDisjointCompletions()
    {
        var items = TruthEvaluation.Items;
        Assert.True(items.Count >= 60);
        Assert.Equal(items.Count, items.Select(i => i.Prefix).Distinct().Count());
        foreach (TruthItem item in items)
        {
            Assert.NotEmpty(item.True);
            Assert.NotEmpty(item.False);
            Assert.Empty(item.True.Intersect(item.False, StringComparer.OrdinalIgnoreCase));
            Assert.All(item.True.Concat(item.False).Append(item.Prefix), text => Assert.Equal(text.Trim(), text));
        }
    }

    [Fact]
    public void UnknownNamesListWhatThereIs() =>
        Assert.Contains("statements", Assert.Throws<UserErrorException>(() => SuffixSets.Load("nothing")).Message);

    [Theory]
    [InlineData("a.json", "[\"The sea is\", \"\"]", 2)]
    [InlineData("a.json", "\uFEFF[\"The sea is\"]", 1)]
    [InlineData("a.txt", "The sea is\r\n\r\nMy name is\n", 2)]
    public void UserFilesAreRead(string name, string text, int count) =>
        WithFile(name, Encoding.UTF8.GetBytes(text), path => Assert.Equal(count, SuffixSets.LoadFile(path).Count));

    [Theory]
    [InlineData("a.json", "[]", "empty")]
    [InlineData("a.json", "", "not valid JSON")]
    [InlineData("a.json", "{\"a\": 1}", "array of strings")]
    [InlineData("a.json", "[\"x\", 3]", "entry 1")]
    [InlineData("a.json", "[\"\\ud800\"]", "not valid JSON")]
    [InlineData("a.txt", " \n\n", "no suffix")]
    public void BadUserFilesAreRefusedWithTheReason(string name, string text, string reason) =>
        WithFile(name, Encoding.UTF8.GetBytes(text), path =>
        {
            string message = Assert.Throws<UserErrorException>(() => SuffixSets.LoadFile(path)).Message;
            Assert.Contains(reason, message);
            Assert.Contains(path, message);
        });

    [Fact]
    public void BytesThatAreNotTextAndMissingFilesAreRefused()
    {
        WithFile("a.txt", [0x41, 0xff, 0x42], path =>
            Assert.Contains("not UTF-8 at byte 1", Assert.Throws<UserErrorException>(() => SuffixSets.LoadFile(path)).Message));
        Assert.Contains("cannot be read", Assert.Throws<UserErrorException>(() => SuffixSets.LoadFile("/nowhere/a.json")).Message);
    }

    private static void WithFile(string name, byte[] content, Action<string> test)
    {
        string folder = Directory.CreateTempSubdirectory("repeng-data-").FullName;
        try
        {
            string path = Path.Combine(folder, name);
            File.WriteAllBytes(path, content);
            test(path);
        }
        finally
        {
            Directory.Delete(folder, recursive: true);
        }
    }
}
