using System.Text.Json.Nodes;
using Repeng.Kernels;
using Repeng.Runtime.Formats;
using Repeng.Runtime.Tokenizers;
using Repeng.Testing;
using TempFolder = Repeng.Runtime.Tests.Formats.TempFolder;

namespace Repeng.Runtime.Tests.Tokenizers;

/// <summary>Tokenizers of Hugging Face folders written as GGUF metadata and read back: ids, texts and settings stay.</summary>
[Trait("Category", "Golden")]
[Trait("Golden", "tokenizers")]
public sealed class GgufTokenizerExportTests
{
    public static TheoryData<string> Folders()
    {
        var rows = new TheoryData<string>();
        if (Directory.Exists(Golden.Beside("tokenizers")))
            foreach (string folder in Directory.GetDirectories(Golden.Beside("tokenizers")).Where(d => File.Exists(Path.Combine(d, "tokenizer.json"))).Order(StringComparer.Ordinal))
                rows.Add(Path.GetFileName(folder));
        if (rows.Count == 0)
            rows.Add("(absent)");
        return rows;
    }

    [Theory]
    [MemberData(nameof(Folders))]
    public void IdsStayThroughAFile(string name)
    {
        string folder = Golden.RequireBeside("tokenizers", name);
        JsonArray strings = JsonFile.ReadObject(Golden.Require("tokenizers", "strings.json")).OptionalArray("rows")!;
        Tokenizer original = Tokenizer.Load(folder);
        GgufTokenizer exported = GgufTokenizerExport.FromFolder(folder);
        using var temp = new TempFolder();
        var writer = new GgufWriter("llama");
        // A padded vocabulary is normal.
        exported.WriteTo(writer, exported.Tokens.Length + 3);
        writer.Write(temp.File("t.gguf"));
        GgufTokenizer stored;
        using (GgufFile file = GgufFile.Open(temp.File("t.gguf")))
            stored = GgufTokenizer.Read(file)!;
        Assert.Equal(exported.Tokens.Length + 3, stored.Tokens.Length);
        Tokenizer read = Tokenizer.FromGguf(stored, name);
        Assert.Equal((original.BosId, original.EosId, original.PadId), (read.BosId, read.EosId, read.PadId));
        Assert.Equal(original.ChatTemplate, read.ChatTemplate);
        int compared = 0;
        var differing = new List<string>();
        foreach (JsonNode? node in strings)
        {
            string text = node![2]!.GetValue<string>();
            foreach (bool special in new[] { false, true })
            {
                int[] wanted = original.Encode(text, special), actual = read.Encode(text, special);
                compared++;
                if (!wanted.AsSpan().SequenceEqual(actual))
                    differing.Add($"{System.Text.Json.JsonSerializer.Serialize(text)}: [{string.Join(", ", actual)}] instead of [{string.Join(", ", wanted)}]");
                else
                    Assert.Equal(original.Decode(wanted, true), read.Decode(wanted, true));
            }
        }
        Assert.True(differing.Count == 0, $"{name} as {exported.Model}, {exported.Pre}: {differing.Count} of {compared} differ: {string.Join("\n", differing.Take(10))}");
    }

    [Fact]
    public void WhatGgufCannotSayIsRefused()
    {
        using var temp = new TempFolder();
        temp.File("tokenizer.json", """{"version":"1.0","added_tokens":[],"model":{"type":"WordLevel","vocab":{"a":0,"b":1},"unk_token":"a"},"pre_tokenizer":{"type":"Whitespace"}}"""u8);
        var e = Assert.Throws<UserErrorException>(() => GgufTokenizerExport.FromFolder(temp.Root));
        Assert.Contains("WordLevel cannot be written as GGUF", e.Message);
        using var empty = new TempFolder();
        Assert.Contains("tokenizer.json", Assert.Throws<UserErrorException>(() => GgufTokenizerExport.FromFolder(empty.Root)).Message);
    }
}
