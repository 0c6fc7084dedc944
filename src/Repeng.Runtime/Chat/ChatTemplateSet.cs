using System.Text.Json;
using Repeng.Kernels;
using Repeng.Runtime.Formats;

namespace Repeng.Runtime.Chat;

/// <summary>
/// What a model's folder says about chats: its templates by name, and its special tokens.
/// Most models have one template, which is then called <c>default</c>.
/// </summary>
public sealed class ChatTemplateSet
{
    /// <summary>Name of the template that is used when none is asked for.</summary>
    public const string DefaultName = "default";

    private const string ToolUseName = "tool_use";

    // The attributes that Hugging Face's tokenizers call special tokens.
    private static readonly string[] s_tokenNames =
        ["bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token"];

    private readonly string _sourceName;

    private ChatTemplateSet(string sourceName, Dictionary<string, string> templates, Dictionary<string, object?> specialTokens)
    {
        _sourceName = sourceName;
        Templates = templates;
        SpecialTokens = specialTokens;
    }

    /// <summary>The Jinja texts by name; empty when the model has no chat template.</summary>
    public IReadOnlyDictionary<string, string> Templates { get; }

    /// <summary>
    /// Special tokens as texts, by the name that templates know them under (<c>additional_special_tokens</c> as a list of
    /// texts); only those that the model has. For <see cref="ChatRenderOptions.SpecialTokens"/>.
    /// </summary>
    public IReadOnlyDictionary<string, object?> SpecialTokens { get; }

    /// <summary>
    /// Reads the chat templates of a model's folder: those in <c>tokenizer_config.json</c>, and beside it the newer files
    /// <c>chat_template.jinja</c> and <c>additional_chat_templates/*.jinja</c>, which win.
    /// </summary>
    /// <exception cref="UserErrorException">tokenizer_config.json is missing, unreadable or malformed.</exception>
    public static ChatTemplateSet Load(string folder)
    {
        ArgumentNullException.ThrowIfNull(folder);
        string path = Path.Combine(folder, "tokenizer_config.json");
        try
        {
            ChatTemplateSet set = FromTokenizerConfig(JsonFile.ParseElement(File.ReadAllBytes(path), path), path);
            var templates = new Dictionary<string, string>(set.Templates);
            string single = Path.Combine(folder, "chat_template.jinja");
            if (File.Exists(single))
                templates[DefaultName] = File.ReadAllText(single);
            string more = Path.Combine(folder, "additional_chat_templates");
            if (Directory.Exists(more))
                foreach (string file in Directory.EnumerateFiles(more, "*.jinja").Order(StringComparer.Ordinal))
                    templates[Path.GetFileNameWithoutExtension(file)] = File.ReadAllText(file);
            return new ChatTemplateSet(path, templates, new Dictionary<string, object?>(set.SpecialTokens));
        }
        catch (Exception e) when (e is IOException or UnauthorizedAccessException)
        {
            throw new UserErrorException($"{path}: cannot read the tokenizer's configuration ({e.Message.ReplaceLineEndings(" ")}); point to a complete model folder", e);
        }
    }

    /// <summary>Reads the templates and special tokens out of the contents of a <c>tokenizer_config.json</c>.</summary>
    /// <param name="config">The JSON object.</param>
    /// <param name="sourceName">What error messages call it, such as the path of the file.</param>
    /// <exception cref="UserErrorException">The parts about chats are malformed.</exception>
    public static ChatTemplateSet FromTokenizerConfig(JsonElement config, string sourceName)
    {
        ArgumentNullException.ThrowIfNull(sourceName);
        if (config.ValueKind != JsonValueKind.Object)
            throw new UserErrorException($"{sourceName}: a JSON object is needed, not {config.ValueKind}; check that this is a tokenizer_config.json");
        return new ChatTemplateSet(sourceName, ReadTemplates(config, sourceName), ReadTokens(config, sourceName));
    }

    /// <summary>
    /// Parses the template that a conversation takes: the one of that name; without a name <c>tool_use</c> when there are
    /// tools and such a template, else <c>default</c>.
    /// </summary>
    /// <exception cref="UserErrorException">There is no such template.</exception>
    /// <exception cref="ChatTemplateException">The template is not valid.</exception>
    public ChatTemplate Select(string? name = null, bool hasTools = false, ChatTemplateLimits? limits = null)
    {
        string wanted = name ?? (hasTools && Templates.ContainsKey(ToolUseName) ? ToolUseName : DefaultName);
        if (Templates.TryGetValue(wanted, out string? template))
            return ChatTemplate.Parse(template, wanted == DefaultName ? _sourceName : $"{_sourceName} ({wanted})", limits);
        throw new UserErrorException(Templates.Count == 0
            ? $"{_sourceName}: the tokenizer has no chat template; prompt with plain text, or give a template file"
            : $"{_sourceName}: there is no chat template '{wanted}'; choose one of {string.Join(", ", Templates.Keys.Order(StringComparer.Ordinal))}");
    }

    private static Dictionary<string, string> ReadTemplates(JsonElement config, string sourceName)
    {
        var templates = new Dictionary<string, string>();
        if (!config.TryGetProperty("chat_template", out JsonElement given) || given.ValueKind == JsonValueKind.Null)
            return templates;
        if (given.ValueKind == JsonValueKind.String)
        {
            templates[DefaultName] = Text(given, sourceName, "chat_template");
            return templates;
        }
        if (given.ValueKind != JsonValueKind.Array)
            throw new UserErrorException($"{sourceName}: chat_template must be a text or a list of named templates, not {given.ValueKind}");
        int index = 0;
        foreach (JsonElement entry in given.EnumerateArray())
        {
            string where = $"chat_template[{index++}]";
            if (entry.ValueKind != JsonValueKind.Object
                || !entry.TryGetProperty("name", out JsonElement name) || name.ValueKind != JsonValueKind.String
                || !entry.TryGetProperty("template", out JsonElement template) || template.ValueKind != JsonValueKind.String)
                throw new UserErrorException($"{sourceName}: {where} must be an object with the texts 'name' and 'template'");
            templates[Text(name, sourceName, where)] = Text(template, sourceName, where);
        }
        return templates;
    }

    private static Dictionary<string, object?> ReadTokens(JsonElement config, string sourceName)
    {
        var tokens = new Dictionary<string, object?>();
        foreach (string name in s_tokenNames)
            if (config.TryGetProperty(name, out JsonElement given) && Token(given, sourceName, name) is { Length: > 0 } token)
                tokens[name] = token;
        if (config.TryGetProperty("extra_special_tokens", out JsonElement extra) && extra.ValueKind == JsonValueKind.Object)
            foreach (JsonProperty property in extra.EnumerateObject())
                if (Token(property.Value, sourceName, property.Name) is { Length: > 0 } token)
                    tokens[property.Name] = token;
        if (config.TryGetProperty("additional_special_tokens", out JsonElement list) && list.ValueKind == JsonValueKind.Array)
        {
            object?[] additional = [.. list.EnumerateArray().Select(item => Token(item, sourceName, "additional_special_tokens")).Where(item => item is { Length: > 0 })];
            if (additional.Length > 0)
                tokens["additional_special_tokens"] = additional;
        }
        return tokens;
    }

    // A token is a text, or an object whose field "content" is the text.
    private static string? Token(JsonElement given, string sourceName, string name) => given.ValueKind switch
    {
        JsonValueKind.Null => null,
        JsonValueKind.String => Text(given, sourceName, name),
        JsonValueKind.Object when given.TryGetProperty("content", out JsonElement content) && content.ValueKind == JsonValueKind.String
            => Text(content, sourceName, name),
        _ => throw new UserErrorException($"{sourceName}: {name} must be a text or an object with the text 'content', not {given.ValueKind}"),
    };

    private static string Text(JsonElement text, string sourceName, string name)
    {
        try
        {
            return text.GetString()!;
        }
        catch (InvalidOperationException e)
        {
            throw new UserErrorException($"{sourceName}: {name} is no valid Unicode text", e);
        }
    }
}
