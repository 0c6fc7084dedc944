using System.Text.Json;
using Repeng.Runtime.Chat;
using Repeng.Steering.Training;
using Repeng.Testing;

namespace Repeng.Steering.Tests.Vectors;

/// <summary>Training texts against upstream's make_dataset, byte for byte.</summary>
[Trait("Category", "Golden")]
[Trait("Golden", "vectors")]
public sealed class DatasetGoldenTests
{
    [Fact]
    public void Texts_of_pairs_are_those_of_make_dataset()
    {
        using var golden = JsonDocument.Parse(File.ReadAllText(Golden.Require("vectors", "dataset.json")));
        JsonElement root = golden.RootElement;
        List<TextPair> pairs = PairTexts.Make(Renderer(), root.GetProperty("template").GetString()!, Personas(root), Strings(root, "suffixes"));
        JsonElement[] entries = [.. root.GetProperty("entries").EnumerateArray()];
        Assert.NotEmpty(entries);
        Assert.Equal(entries.Select(e => (e.GetProperty("positive").GetString(), e.GetProperty("negative").GetString())), pairs.Select(p => ((string?)p.Positive, (string?)p.Negative)));
    }

    [Fact]
    public void Lists_of_unequal_length_pair_up_to_the_shorter_one()
    {
        using var golden = JsonDocument.Parse(File.ReadAllText(Golden.Require("vectors", "dataset.json")));
        JsonElement root = golden.RootElement.GetProperty("unequal_lists");
        List<TextPair> pairs = PairTexts.Make(Renderer(), root.GetProperty("template").GetString()!, Personas(root), Strings(root, "suffixes"));
        Assert.Equal(root.GetProperty("n").GetInt32(), pairs.Count);
        Assert.Equal(root.GetProperty("positive").GetString(), pairs[0].Positive);
        Assert.Equal(root.GetProperty("negative").GetString(), pairs[0].Negative);
    }

    // The folder's README: the texts were made with the tokenizer and the template of Qwen3.
    private static Func<string, string, string> Renderer()
    {
        ChatTemplateSet set = ChatTemplateSet.Load(Golden.RequireBeside("tokenizers", "qwen3"));
        ChatTemplate template = set.Select();
        return (user, suffix) => template.RenderWithPrefix([new ChatMessage("user", user)], suffix, new ChatRenderOptions { SpecialTokens = set.SpecialTokens });
    }

    private static List<(string, string)> Personas(JsonElement root) => [.. Strings(root, "positive_personas").Zip(Strings(root, "negative_personas"))];

    private static string[] Strings(JsonElement root, string name) => [.. root.GetProperty(name).EnumerateArray().Select(s => s.GetString()!)];
}
