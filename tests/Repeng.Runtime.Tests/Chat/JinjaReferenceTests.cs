using System.Globalization;
using System.Text.Json;
using Repeng.Runtime.Chat;
using Repeng.Testing;

namespace Repeng.Runtime.Tests.Chat;

/// <summary>
/// Templates with what Jinja itself makes of them, one feature each: <c>jinja-cases.json</c>, filled by <c>make_jinja_cases.py</c>.
/// </summary>
public sealed class JinjaReferenceTests
{
    [Fact]
    public void EveryTemplateGivesWhatJinjaGives()
    {
        // tests/peers/jinja_fuzz.py makes other files of that form.
        string path = Environment.GetEnvironmentVariable("REPENG_JINJA_CASES") is { Length: > 0 } other ? other : Path.Combine(Golden.Repository, "tests", "Repeng.Runtime.Tests", "Chat", "jinja-cases.json");
        using JsonDocument file = JsonDocument.Parse(File.ReadAllBytes(path));
        JsonElement root = file.RootElement;
        var options = new ChatRenderOptions
        {
            Variables = root.GetProperty("variables").EnumerateObject().ToDictionary(p => p.Name, p => (object?)p.Value),
            Now = DateTime.Parse(root.GetProperty("now").GetString()!, CultureInfo.InvariantCulture),
        };
        JsonElement messages = root.GetProperty("messages");
        var wrong = new List<string>();
        int count = 0;
        foreach (JsonElement row in root.GetProperty("cases").EnumerateArray())
        {
            count++;
            string template = row[0].GetString()!;
            string expected = row[1].ValueKind == JsonValueKind.Null ? $"error {row[2].GetString()}" : $"text {row[1].GetString()}";
            string actual = Outcome(template, messages, options);
            if (actual != expected)
                wrong.Add($"{template}\n  expected {expected}\n  actual   {actual}");
        }
        Assert.True(count > 0, "the file holds no cases");
        Assert.True(wrong.Count == 0, $"{wrong.Count} of {count} templates differ:\n{string.Join("\n", wrong.Take(20))}");
    }

    private static string Outcome(string template, JsonElement messages, ChatRenderOptions options)
    {
        try
        {
            return "text " + ChatTemplate.Parse(template, "case").Render(messages, options);
        }
        catch (ChatTemplateException e)
        {
            return $"error {e.Kind}";
        }
    }
}
