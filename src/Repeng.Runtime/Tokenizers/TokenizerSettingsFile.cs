using System.Text.Json;
using Repeng.Runtime.Formats;

namespace Repeng.Runtime.Tokenizers;

/// <summary>Reads tokenizer_config.json: the special tokens' texts and the chat templates.</summary>
internal static class TokenizerSettingsFile
{
    public const string DefaultTemplate = "default";

    /// <param name="json">The whole file, UTF-8.</param>
    /// <param name="file">Its name for error messages.</param>
    /// <param name="chatTemplate">The text of a chat_template.jinja beside it, which goes before the file's own; else null.</param>
    public static TokenizerSettings Read(ReadOnlyMemory<byte> json, string file, string? chatTemplate)
    {
        var section = new JsonSection(file, "the configuration", JsonFile.ParseElement(json.Span, file));
        Dictionary<string, string> templates = ReadTemplates(section);
        if (chatTemplate is not null)
            templates[DefaultTemplate] = chatTemplate;
        return new TokenizerSettings { SpecialTokenTexts = ReadTexts(section), ChatTemplates = templates };
    }

    /// <summary>Every property that ends in _token and holds a string, or an object with 'content' (add_bos_token holds neither).</summary>
    private static Dictionary<string, string> ReadTexts(JsonSection section)
    {
        Dictionary<string, string> texts = [];
        foreach ((string name, JsonElement value) in section.Properties())
        {
            if (!name.EndsWith("_token", StringComparison.Ordinal))
                continue;
            if (section.AsText(value) is { } text)
                texts[name] = text;
            else if (value.ValueKind == JsonValueKind.Object)
                texts[name] = section.Section(name).Text("content");
        }
        return texts;
    }

    /// <summary>'chat_template' is one text, or a list of texts with names.</summary>
    private static Dictionary<string, string> ReadTemplates(JsonSection section)
    {
        Dictionary<string, string> templates = [];
        if (!section.TryGet("chat_template", out JsonElement value))
            return templates;
        if (value.ValueKind != JsonValueKind.Array)
        {
            templates[DefaultTemplate] = section.Text("chat_template");
            return templates;
        }
        foreach (JsonSection named in section.Sections("chat_template"))
            templates[named.Text("name")] = named.Text("template");
        return templates;
    }
}
