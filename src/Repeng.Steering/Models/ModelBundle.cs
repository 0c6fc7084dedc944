using System.Text.Json.Nodes;
using Repeng.Kernels;
using Repeng.Runtime;
using Repeng.Runtime.Chat;
using Repeng.Runtime.Formats;
using Repeng.Runtime.Hub;
using Repeng.Runtime.Tokenizers;

namespace Repeng.Steering.Models;

/// <summary>A model with its tokenizer and, where it has one, its chat template. Owns the model.</summary>
public sealed class ModelBundle : IDisposable
{
    /// <summary>Name that stands for the built-in demo model.</summary>
    public const string Demo = "demo";

    private readonly IReadOnlyDictionary<string, object?> _specialTokens;

    private ModelBundle(DecoderModel model, Tokenizer tokenizer, ChatTemplate? template, IReadOnlyDictionary<string, object?> specialTokens, string name)
    {
        (Model, Tokenizer, ChatTemplate, _specialTokens, Name) = (model, tokenizer, template, specialTokens, name);
        Thinking = template is null ? null : new ChatThinking(template, specialTokens);
    }

    /// <summary>The model.</summary>
    public DecoderModel Model { get; }

    /// <summary>The tokenizer.</summary>
    public Tokenizer Tokenizer { get; }

    /// <summary>The chat template, or null.</summary>
    public ChatTemplate? ChatTemplate { get; }

    /// <summary>What the chat template knows of thinking; null without a template.</summary>
    public ChatThinking? Thinking { get; }

    /// <summary>Switches thinking in every chat that is rendered for an answer; null leaves it as the template has it.</summary>
    public bool? EnableThinking { get; set; }

    /// <summary>What the person called the model.</summary>
    public string Name { get; }

    /// <summary>True for the built-in demo model.</summary>
    public bool IsDemo => Name == Demo;

    /// <summary>Fills rows of a batch; attention never sees it.</summary>
    public int PadId => Tokenizer.PadId is { } id && id < Model.Config.VocabSize ? id : 0;

    /// <summary>Tokens that end a text.</summary>
    public int[] StopIds => [.. Model.Config.EosTokenIds.Concat(Tokenizer.EosId is { } id ? [id] : []).Distinct()];

    /// <summary>Folder of the built-in demo model, copied beside the program unless <see cref="UseDemo"/> says otherwise.</summary>
    public static string DemoFolder => s_demo();

    private static Func<string> s_demo = () => Path.Combine(AppContext.BaseDirectory, "models", "demo");

    /// <summary>For programs that carry the demo model in themselves: gives its folder when it is first asked for.</summary>
    public static void UseDemo(Func<string> folder) => s_demo = folder;

    /// <summary>
    /// Loads "demo", a folder in the Hugging Face layout, a .gguf file, or a repository of the hub (org/name, org/name@revision,
    /// org/name:file.gguf), which is fetched when the cache lacks it. Everything that is wrong with it is a
    /// <see cref="UserErrorException"/>; a family that is not supported is refused before any weight is read.
    /// </summary>
    /// <param name="device">Where to.</param>
    /// <param name="model">What the person called it.</param>
    /// <param name="weights">How weights are held.</param>
    /// <param name="progress">Hears of blocks done and of how many.</param>
    /// <param name="remark">Hears what is odd and no error.</param>
    public static ModelBundle Load(Device device, string model, WeightStorage? weights = null, Action<int, int>? progress = null, Action<string>? remark = null)
    {
        string path = Locate(model);
        if (model == Demo)
            return LoadFolder(device, path, Demo, (weights ?? new WeightStorage()) with { Type = WeightType.F32 }, progress, remark);
        return File.Exists(path) ? LoadGguf(device, path, model, weights, progress, remark) : LoadFolder(device, path, model, weights, progress, remark);
    }

    /// <summary>
    /// The folder or .gguf file on this machine that a model's name stands for. A repository of the hub that is not in the
    /// cache is fetched first.
    /// </summary>
    /// <param name="hub">Fetches; null takes a fetch without progress by the settings of the environment.</param>
    public static string Locate(string model, ModelHub? hub = null, CancellationToken stop = default)
    {
        if (model == Demo)
            return DemoFolder;
        bool gguf = model.EndsWith(".gguf", StringComparison.OrdinalIgnoreCase);
        if (Directory.Exists(model) || gguf && File.Exists(model))
            return model;
        if (File.Exists(model))
            throw new UserErrorException($"model {model}: is a file but no .gguf file; give the folder that it lies in, or a .gguf file");
        // A name without an organisation is hardly meant for the hub, unless it is in the cache already.
        HubReference? reference = HubReference.TryParse(model, bareName: true);
        bool path = gguf && !model.Contains(':');
        if (reference is not null && !path)
        {
            using ModelHub? own = hub is null ? new ModelHub() : null;
            hub ??= own!;
            if (reference.Repository.Contains('/'))
                return hub.Resolve(reference, stop: stop);
            if (hub.Find(reference) is { } cached)
                return cached;
        }
        throw new UserErrorException($"model {model}: no such folder or .gguf file; give a folder with config.json and *.safetensors, a .gguf file, a repository of the hub as org/name, or leave --model out for the built-in demo");
    }

    /// <summary>The description of a model without its weights, for planning and inspection, and a source of its tensors.</summary>
    /// <param name="model">What the person called it.</param>
    /// <param name="check">Refuses weights that are stored in a way that cannot be run; without it they can be described.</param>
    public static (ModelConfig Config, ITensorSource Tensors, string Source) OpenConfig(string model, bool check = true)
    {
        string path = Locate(model);
        if (File.Exists(path))
        {
            GgufModel gguf = GgufModel.Open(path);
            try
            {
                return (ConfigOf(gguf, path), gguf.Tensors, path);
            }
            catch
            {
                gguf.Dispose();
                throw;
            }
        }
        ModelConfig config = ReadConfig(path);
        return (config, OpenWeights(path, check), path);
    }

    /// <summary>Token ids of a text as it is, with the special tokens that the tokenizer puts around it.</summary>
    public int[] EncodeRaw(string text) => Tokenizer.Encode(text, addSpecialTokens: true);

    /// <summary>Token ids of a chat up to where the assistant begins (prefix empty) or goes on after a prefix.</summary>
    public int[] EncodeChat(IReadOnlyList<ChatMessage> messages, string assistantPrefix = "") => Tokenizer.Encode(RenderChat(messages, assistantPrefix), addSpecialTokens: false);

    /// <summary>A chat as text, by the model's template.</summary>
    public string RenderChat(IReadOnlyList<ChatMessage> messages, string assistantPrefix = "")
    {
        ChatTemplate template = ChatTemplate ?? throw new UserErrorException($"{Name}: the tokenizer has no chat template; use --raw for plain text");
        (messages, IReadOnlyDictionary<string, object?> variables) = Thinking!.Apply(messages, EnableThinking);
        var options = new ChatRenderOptions { SpecialTokens = _specialTokens, Variables = variables };
        return assistantPrefix.Length == 0
            ? template.Render(messages, options with { AddGenerationPrompt = true })
            : template.RenderWithPrefix(messages, assistantPrefix, options);
    }

    /// <summary>
    /// The text of a persona's training row: the template's user turn, then the suffix as the begun answer, or with
    /// <see cref="ThinkingTexts.Inside"/> as the begun thoughts. Empty suffix: no assistant text.
    /// </summary>
    public string RenderPersona(string userText, string suffix, ThinkingTexts? thinking = null)
    {
        ChatTemplate template = ChatTemplate ?? throw new UserErrorException($"{Name}: the tokenizer has no chat template, and training texts are chats; take an instruct model");
        ChatMessage[] said = [new ChatMessage("user", userText)];
        if (thinking is { Inside: true })
            return Thinking!.RenderInside(said, suffix, ThinkTags(thinking.Tag, "--thinking"));
        (IReadOnlyList<ChatMessage> messages, IReadOnlyDictionary<string, object?> variables) = Thinking!.Apply(said, thinking?.Enable);
        return template.RenderWithPrefix(messages, suffix, new ChatRenderOptions { SpecialTokens = _specialTokens, Variables = variables });
    }

    /// <summary>The tags that were named, else those of the chat template; where it has none, an error in the name of what needs them.</summary>
    /// <param name="named">As <see cref="Runtime.Chat.ThinkTags.Parse"/> reads them, or null.</param>
    /// <param name="need">The option that needs them.</param>
    public ThinkTags ThinkTags(string? named, string need)
    {
        if (named is not null)
            return Runtime.Chat.ThinkTags.Parse(named);
        if (Thinking?.Tags is { } tags)
            return tags;
        // Some models have the tokens in their vocabulary and were never taught to think.
        string hint = Runtime.Chat.ThinkTags.Known.FirstOrDefault(t => Tokenizer.TokenToId(t.Open) is not null && Tokenizer.TokenToId(t.Close) is not null) is { } known
            ? $" (its vocabulary has {known.Open} and {known.Close}, but the template does not use them)" : "";
        throw new UserErrorException($"{need}: {Name} is no thinking model: its chat template names no tag such as <think>{hint}; leave {need} out, or name the tag with --think_tag '<think>' if you know that it thinks");
    }

    /// <inheritdoc/>
    public void Dispose() => Model.Dispose();

    private static ModelBundle LoadFolder(Device device, string folder, string name, WeightStorage? weights, Action<int, int>? progress, Action<string>? remark)
    {
        ModelConfig config = ReadConfig(folder);
        using ITensorSource source = OpenWeights(folder);
        (DecoderModel model, Texts texts) = Together(device, config, source, weights, progress, () =>
        {
            Tokenizer tokenizer = Tokenizer.Load(folder);
            ChatTemplateSet templates = ChatTemplateSet.Load(folder);
            return new Texts(tokenizer, templates.Templates.Count > 0 ? templates.Select() : null, templates.SpecialTokens, CheckVocabulary(config, tokenizer, folder));
        });
        return Whole(model, texts, name, remark);
    }

    private static ModelBundle LoadGguf(Device device, string path, string name, WeightStorage? weights, Action<int, int>? progress, Action<string>? remark)
    {
        using GgufModel gguf = GgufModel.Open(path);
        ModelConfig config = ConfigOf(gguf, path);
        GgufTokenizer t = gguf.Tokenizer ?? throw new UserErrorException($"{path}: no tokenizer in the file; take a GGUF made by llama.cpp's converter");
        (DecoderModel model, Texts texts) = Together(device, config, gguf.Tensors, weights, progress, () =>
        {
            Tokenizer tokenizer = Tokenizer.FromGguf(t, path);
            string? remarked = CheckVocabulary(config, tokenizer, path);
            var special = tokenizer.SpecialTokenTexts.ToDictionary(p => p.Key, p => (object?)p.Value);
            ChatTemplate? template = t.ChatTemplate is null ? null : Runtime.Chat.ChatTemplate.Parse(t.ChatTemplate, $"{path} (tokenizer.chat_template)");
            return new Texts(tokenizer, template, special, remarked);
        });
        return Whole(model, texts, name, remark);
    }

    private sealed record Texts(Tokenizer Tokenizer, ChatTemplate? Template, IReadOnlyDictionary<string, object?> SpecialTokens, string? Remark);

    private static ModelBundle Whole(DecoderModel model, Texts texts, string name, Action<string>? remark)
    {
        if (texts.Remark is not null)
            remark?.Invoke(texts.Remark);
        return new ModelBundle(model, texts.Tokenizer, texts.Template, texts.SpecialTokens, name);
    }

    /// <summary>Weights on this thread and, beside them, what reads texts. What is wrong with the latter is said at the next block, and first where both fail.</summary>
    private static (DecoderModel Model, Texts Texts) Together(Device device, ModelConfig config, ITensorSource source, WeightStorage? weights, Action<int, int>? progress, Func<Texts> read)
    {
        Task<Texts> texts = Task.Run(read);
        DecoderModel model;
        try
        {
            model = ModelLoader.Load(device, config, source, weights, (done, of) =>
            {
                if (texts.IsFaulted)
                    texts.GetAwaiter().GetResult();
                progress?.Invoke(done, of);
            });
        }
        catch
        {
            texts.GetAwaiter().GetResult();
            throw;
        }
        try
        {
            return (model, texts.GetAwaiter().GetResult());
        }
        catch
        {
            model.Dispose();
            throw;
        }
    }

    /// <summary>The description of a model in a GGUF file, whose norms and linear weights are as they are multiplied (see <see cref="GgufModel"/>).</summary>
    public static ModelConfig ConfigOf(GgufModel gguf, string path) =>
        Families.Read(new ConfigReader(gguf.Config, path)) with { NormOffset = 0, LinearStoredTransposed = false };

    private static ModelConfig ReadConfig(string folder)
    {
        string path = Path.Combine(folder, "config.json");
        JsonObject json = JsonFile.Read(path) as JsonObject ?? throw new UserErrorException($"{path}: a JSON object is needed; is this the config.json of a language model?");
        return Families.Read(new ConfigReader(json, path));
    }

    internal static ITensorSource OpenWeights(string folder, bool check = true)
    {
        ITensorSource source = ShardedSafetensors.OpenModel(folder);
        if (check)
        {
            try
            {
                string config = Path.Combine(folder, "config.json");
                StorageMethod.Check(JsonFile.ReadObject(config).Json, config, source);
            }
            catch
            {
                source.Dispose();
                throw;
            }
        }
        return BitsAndBytesSource.Wrap(source);
    }

    // Embeddings are padded to a round number, by less than this part of them.
    private const double Padding = 0.05;

    // Tokens that people add, a padding token for one, may have no row in the table and harm nobody who does not use them: a remark, or null.
    private static string? CheckVocabulary(ModelConfig config, Tokenizer tokenizer, string source)
    {
        int tokens = tokenizer.VocabularySize, rows = config.VocabSize;
        if (tokenizer.BaseVocabularySize > rows)
            throw new UserErrorException($"{source}: the tokenizer's vocabulary has {tokenizer.BaseVocabularySize} tokens, the model's embedding {rows} rows; they do not belong together");
        if (tokens > rows)
        {
            string[] beyond = [.. Enumerable.Range(rows, tokens - rows).Select(id => (id, tokenizer.IdToToken(id))).Where(t => t.Item2 is not null).Select(t => $"{t.Item2} ({t.id})")];
            return $"{source}: the tokenizer has {tokens} tokens, the model's embedding {rows} rows; {beyond.Length} added token{(beyond.Length == 1 ? "" : "s")} lie beyond the table, a text with one of them is refused: {string.Join(", ", beyond.Take(4))}{(beyond.Length > 4 ? " …" : "")}";
        }
        return rows - tokens > Padding * rows
            ? $"{source}: the tokenizer has {tokens} tokens, the model's embedding {rows} rows, which is more than padding explains; is it the tokenizer of this model?" : null;
    }
}
