using System.CommandLine;
using System.Text.Json.Nodes;
using Repeng.Cli.Reports;
using Repeng.Kernels;
using Repeng.Runtime.Chat;
using Repeng.Runtime.Formats;
using Repeng.Runtime.Tokenizers;
using Repeng.Steering.Adapters;
using Repeng.Steering.Adapters.Peft;
using Repeng.Steering.Models;
using Repeng.Steering.Vectors;

namespace Repeng.Cli.Verbs;

/// <summary>inspect: says what a model, an adapter or a tensor file holds, without loading weights.</summary>
public sealed class InspectVerb
{
    private readonly Argument<string> _path = new("path") { Description = "model folder, .gguf file, repository of the hub, adapter folder, .safetensors file, tokenizer.json, or demo", HelpName = "PATH" };
    private readonly Option<bool?> _tensors = Opt.Flag("--tensors", "also list every tensor");
    private readonly Session _session;

    private InspectVerb(Session session) => _session = session;

    /// <summary>The verb.</summary>
    public static Command Create(Session session)
    {
        var verb = new InspectVerb(session);
        var command = new Command("inspect", "Say what a model, an adapter or a tensor file holds");
        command.Arguments.Add(verb._path);
        command.Options.Add(verb._tensors);
        command.SetAction(verb.Run);
        return command;
    }

    private int Run(ParseResult p)
    {
        string path = p.GetValue(_path)!;
        // One file of a repository may hold an adapter or a control vector as well as a model.
        if (Runtime.Hub.HubReference.TryParse(path) is { File: not null })
            path = HubModels.Adapter(_session, path)!;
        bool list = p.GetValue(_tensors) == true;
        if (Directory.Exists(path) && File.Exists(Path.Combine(path, AdapterFile.ConfigName)))
            Adapter(path, list);
        else if (File.Exists(path) && path.EndsWith(".safetensors", StringComparison.OrdinalIgnoreCase))
            Tensors(path, list);
        else if (File.Exists(path) && path.EndsWith("tokenizer.json", StringComparison.OrdinalIgnoreCase))
            TokenizerJson(path);
        else if (!File.Exists(path) || !path.EndsWith(".gguf", StringComparison.OrdinalIgnoreCase) || Gguf(path, list))
            Model(path, list);
        return ExitCodes.Ok;
    }

    private void Model(string path, bool list)
    {
        HubModels.Ready(_session, path);
        (ModelConfig c, ITensorSource tensors, string source) = ModelBundle.OpenConfig(path, check: false);
        using (tensors)
        {
            string config = Path.Combine(source, "config.json");
            string? method = File.Exists(source) ? null : StorageMethod.Of(JsonFile.ReadObject(config).Json, config, tensors);
            Spectre.Console.Table table = Format.Table("what", "value");
            table.Row("family", c.ModelType);
            table.Row("blocks", $"{c.NumLayers}");
            table.Row("width", $"{c.HiddenSize}, MLP {c.IntermediateSize}");
            if (c.Experts is { } experts)
                table.Row("experts", $"{experts.Count} of width {experts.IntermediateSize}, {experts.PerToken} a token{(experts.SharedIntermediateSize > 0 ? $", one of {experts.SharedIntermediateSize} for every token" : "")}, in {experts.Layers.Count(l => l)} of {c.NumLayers} blocks");
            table.Row("heads", $"{c.NumHeads} of {c.HeadDim}, {c.NumKvHeads} for keys and values");
            table.Row("vocabulary", $"{c.VocabSize}{(c.TiedHead ? ", head tied to the embedding" : "")}");
            table.Row("context", $"{c.MaxPositions} tokens");
            if (method is not null)
                table.Row("quantised by", $"{method}{(StorageMethod.IsRead(method) ? "" : ", which cannot be run")}");
            (string tokenizer, bool template) = Tokenizer(source);
            table.Row("tokenizer", tokenizer);
            table.Row("chat template", template ? "yes" : "no");
            _session.Print($"Model {path}", table);
            Parameters(tensors);
            if (list)
                List(tensors);
        }
    }

    /// <summary>Says what a GGUF file is; true where it is a model that can be run, which is then described as one.</summary>
    private bool Gguf(string path, bool list)
    {
        using GgufFile file = GgufFile.Open(path);
        string architecture = file.Architecture ?? "none", kind = file.Metadata.OptionalText("general.type") ?? (architecture == "controlvector" ? "control vector" : "model");
        bool model = kind == "model" && GgufModel.Architectures.Split(", ").Contains(architecture);
        Spectre.Console.Table table = Format.Table("what", "value");
        table.Row("format", $"GGUF {file.Version}, data aligned to {file.Alignment} bytes");
        table.Row("kind", model ? kind : $"{kind}{(kind == "model" ? ", of an architecture that cannot be run from GGUF" : "")}");
        table.Row("architecture", architecture);
        if (file.Metadata.Has("general.name"))
            table.Row("name", file.Metadata.Text("general.name"));
        if (architecture == "controlvector")
        {
            ControlVector vector = ControlVectorFile.Read(path, _session.Say);
            table.Row("of a model of type", vector.ModelType);
            table.Row("directions", $"{vector.Layers.Count} of width {string.Join(", ", vector.Directions.Values.Select(d => d.Width).Distinct())}: {string.Join(", ", vector.Layers)}");
        }
        else if (kind == "adapter")
        {
            string[] layers = [.. file.Names.Where(n => n.EndsWith(".lora_a", StringComparison.Ordinal)).Select(n => n[..^".lora_a".Length])];
            table.Row("adapter", $"{file.Metadata.OptionalText("adapter.type") ?? "of no type"}, alpha {file.Metadata.OptionalNumber("adapter.lora.alpha") ?? 0:R}");
            table.Row("layers", $"{layers.Length} of rank {string.Join(", ", layers.Select(l => file.Info(l + ".lora_a").Rows).Distinct())}");
        }
        _session.Print($"File {path}", table);
        if (list)
            foreach (string key in file.Metadata.Keys)
                _session.Print($"{key}: {file.Metadata.Preview(key) switch { { Length: > 120 } longer => longer[..120] + "…", var all => all }}");
        if (model)
            return true;
        Parameters(file);
        if (list)
            List(file);
        return false;
    }

    private static (string, bool) Tokenizer(string source)
    {
        if (File.Exists(source))
        {
            using GgufModel gguf = GgufModel.Open(source);
            return gguf.Tokenizer is { } t ? ($"{t.Model}, {t.Tokens.Length} tokens", t.ChatTemplate is not null) : ("none", false);
        }
        if (!File.Exists(Path.Combine(source, "tokenizer.json")))
            return ("none", false);
        return ($"tokenizer.json, {Runtime.Tokenizers.Tokenizer.Load(source).VocabularySize} tokens", ChatTemplateSet.Load(source).Templates.Count > 0);
    }

    private void TokenizerJson(string path)
    {
        Tokenizer tokenizer = Runtime.Tokenizers.Tokenizer.Load(path);
        JsonFields json = JsonFile.ReadObject(path);
        Spectre.Console.Table table = Format.Table("what", "value");
        // Old files leave the type of the most common model out.
        table.Row("model", json.OptionalObject("model")?.OptionalText("type") ?? "BPE");
        table.Row("vocabulary", $"{tokenizer.VocabularySize} tokens, {(json.Json["added_tokens"] as JsonArray)?.Count ?? 0} added");
        foreach ((string field, string name) in new[] { ("normalizer", "normaliser"), ("pre_tokenizer", "pre-tokenizer"), ("post_processor", "post-processor"), ("decoder", "decoder") })
            table.Row(name, Parts(json.Json[field]));
        foreach ((string name, string text) in tokenizer.SpecialTokenTexts)
            table.Row(name, text);
        _session.Print($"Tokenizer {path}", table);

        static string Parts(JsonNode? section) => section is not JsonObject o ? "none"
            : (o["normalizers"] ?? o["pretokenizers"] ?? o["processors"] ?? o["decoders"]) is JsonArray parts ? string.Join(", ", parts.Select(Parts)) : o["type"]?.ToString() ?? "none";
    }

    private void Adapter(string folder, bool list)
    {
        string path = Path.Combine(folder, AdapterFile.ConfigName);
        JsonObject json = JsonFile.Read(path) as JsonObject ?? throw new UserErrorException($"{path}: a JSON object is needed");
        Spectre.Console.Table table = Format.Table("setting", "value");
        foreach ((string key, JsonNode? value) in json)
            table.Row(key, value switch { null => "none", JsonArray a => string.Join(", ", a.Select(x => x?.ToString() ?? "none")), _ => value.ToString() });
        _session.Print($"Adapter {folder}", table);
        if (Steering.Evaluation.Calibration.Describe(folder) is { } calibrated)
            _session.Print(calibrated);
        foreach (string file in new[] { AdapterFile.ModelName, AdapterFile.BasesName }.Select(n => Path.Combine(folder, n)))
        {
            if (File.Exists(file))
                Tensors(file, list);
            else if (!(file.EndsWith(AdapterFile.BasesName, StringComparison.Ordinal) && PeftConfig.IsPeft(json["peft_type"]?.ToString())))
                _session.Print($"{file}: not there");
        }
    }

    private void Tensors(string path, bool list)
    {
        using SafetensorsFile file = SafetensorsFile.Open(path);
        _session.Print($"{path}:");
        Parameters(file);
        foreach ((string key, string value) in file.Metadata)
            _session.Print($"metadata {key}: {(value.Length > 120 ? value[..120] + "…" : value)}");
        if (list)
            List(file);
    }

    private void Parameters(ITensorSource tensors)
    {
        Spectre.Console.Table table = Format.Table("type", ">tensors", ">values", ">size", ">bits a value");
        TensorInfo[] all = [.. tensors.Names.Select(n => tensors.Info(n))];
        foreach (IGrouping<string, TensorInfo> type in all.GroupBy(t => t.Type).OrderBy(g => g.Key, StringComparer.Ordinal))
            table.Row(type.Key, $"{type.Count()}", $"{type.Sum(t => t.Elements)}", Format.Bytes(type.Sum(t => t.Bytes)), Bits(type));
        table.Row("all", $"{all.Length}", $"{all.Sum(t => t.Elements)}", Format.Bytes(all.Sum(t => t.Bytes)), Bits(all));
        _session.Print("Tensors", table);

        static string Bits(IEnumerable<TensorInfo> tensors) => tensors.Sum(t => t.Elements) is > 0 and var values ? Format.Number(8.0 * tensors.Sum(t => t.Bytes) / values, 3) : "";
    }

    private void List(ITensorSource tensors)
    {
        foreach (string name in tensors.Names.Order(StringComparer.Ordinal))
        {
            TensorInfo t = tensors.Info(name);
            _session.Print($"{t.Name}  {t.Type}  {t.ShapeText}");
        }
    }
}
