using System.CommandLine;
using System.Text.Json.Nodes;
using Repeng.Kernels;
using Repeng.Runtime;
using Repeng.Runtime.Formats;
using Repeng.Steering.Adapters;
using Repeng.Steering.Adapters.Peft;
using Repeng.Steering.Models;

namespace Repeng.Cli.Verbs;

/// <summary>export: an adapter at one coefficient as files that other software reads: a plain LoRA of PEFT, or a merged model.</summary>
public sealed class ExportVerb
{
    private readonly Option<string?> _adapter = Opt.Text("--adapter", "PATH", "folder of an adapter that train or PEFT wrote, or a LoRA of llama.cpp (.gguf)");
    private readonly Option<string?> _model = Opt.Text("--model", "MODEL", "base model (default: the one that the adapter names)", "--model_name");
    private readonly Option<string?> _to = Opt.Choice("--to", "lora: a plain LoRA that PEFT loads (default); gguf-lora: one that llama.cpp loads; merged: a whole model in fp32; gguf: a whole model as one file", "lora", "gguf-lora", "merged", "gguf");
    private readonly Option<string?> _type = ConvertVerb.TypeOption();
    private readonly Option<double?> _coefficient = Opt.Number("--coefficient", "coefficient that the files stand for (default 1)");
    private readonly Option<string?> _output = Opt.Text("--output", "PATH", "new folder to write; for gguf-lora and gguf a .gguf file");
    private readonly WeightOptions _weights = new();
    private readonly DeviceOption _device = new();
    private readonly Session _session;

    private ExportVerb(Session session) => _session = session;

    /// <summary>The verb.</summary>
    public static Command Create(Session session)
    {
        var verb = new ExportVerb(session);
        var command = new Command("export", "Write an adapter at one coefficient as a LoRA of PEFT or llama.cpp, or merged into the model");
        foreach (Option o in new Option[] { verb._adapter, verb._model, verb._to, verb._type, verb._coefficient, verb._output }.Concat(verb._weights.All).Concat(verb._device.All))
            command.Options.Add(o);
        command.SetAction(verb.Run);
        return command;
    }

    private int Run(ParseResult p)
    {
        string folder = HubModels.Adapter(_session, p.GetValue(_adapter)) ?? throw new UserErrorException("--adapter PATH is missing: what to export");
        string to = p.GetValue(_to) ?? "lora";
        bool gguf = to.StartsWith("gguf", StringComparison.Ordinal);
        string output = Path.TrimEndingDirectorySeparator(p.GetValue(_output) ?? throw new UserErrorException($"--output {(gguf ? "FILE.gguf" : "FOLDER")} is missing: where the files go"));
        if (gguf)
            ConvertVerb.RequireNewFile(output);
        else
            AtomicFile.RequireFolderFree(output);
        if (p.GetValue(_type) is not null && to != "gguf")
            throw new UserErrorException("--type is for --to gguf: other files are fp32");
        ConvertVerb.CheckType(p.GetValue(_type));
        string model = p.GetValue(_model) ?? AdapterFile.ReadBaseModel(folder) ?? ModelBundle.Demo;
        HubModels.Ready(_session, model);
        bool merged = to == "merged";
        float c = (float)(p.GetValue(_coefficient) ?? 1);
        string source = ConfigFolder(model, merged);
        using Device device = _device.Open(p, _session);
        using ModelBundle bundle = ModelBundle.Load(device, model, _weights.Read(p), remark: _session.Say);
        using IAdapter adapter = AdapterFile.LoadAny(bundle.Model, folder);
        if (gguf)
            return WriteGguf(p, to, model, folder, adapter, c, output);
        if (merged)
        {
            AtomicFile.WriteFolder(output, into => WriteMerged(adapter, c, source, into));
            _session.Print($"{output}: {model} with the {adapter.Kind} adapter of {folder} at c = {Reports.Format.Coefficient(c)}, fp32{Decoded(bundle.Model)}");
            return ExitCodes.Ok;
        }
        using PeftAdapter lora = LoraExport.Of(adapter, c, model);
        AtomicFile.WriteFolder(output, into => lora.Save(into, model));
        _session.Print($"{output}: LoRA of rank {lora.Config.Rank} on {lora.Modules.Count} layers; at its full strength it is the {adapter.Kind} adapter of {folder} at c = {Reports.Format.Coefficient(c)}");
        return ExitCodes.Ok;
    }

    // A quantised base is written as what it decodes to, which is larger than the base was.
    private static string Decoded(DecoderModel model) => model.Parameters.Values.FirstOrDefault(t => t.Type == DType.Packed) is { } packed
        ? $"; weights held as {packed.TypeName} are written decoded, quantize makes them small again" : "";
    private int WriteGguf(ParseResult p, string to, string model, string folder, IAdapter adapter, float c, string output)
    {
        using ModelFiles files = ModelFiles.Open(model);
        string what = $"the {adapter.Kind} adapter of {folder} at c = {Reports.Format.Coefficient(c)}";
        if (to == "gguf")
        {
            using MergedWeights weights = MergedWeights.Of(adapter, c);
            string type = ConvertVerb.Write(_session, output, files, weights, p.GetValue(_type), model);
            _session.Print($"{output}: {model} with {what}, {type}");
            return ExitCodes.Ok;
        }
        IReadOnlyList<LoraFactors> parts = LoraExport.WriteGguf(output, files, adapter, c);
        _session.Print($"{output}: LoRA on {parts.Count} layers for llama.cpp (--lora); at scale 1 it is {what}");
        return ExitCodes.Ok;
    }

    // A merged model is written in the layout of its folder, of which a .gguf file has none.
    private static string ConfigFolder(string model, bool merged)
    {
        (_, ITensorSource tensors, string source) = ModelBundle.OpenConfig(model);
        tensors.Dispose();
        return !merged || Directory.Exists(source) ? source : throw new UserErrorException($"--to merged: {source} is one file without config.json; give the model's folder in the Hugging Face layout, or export a LoRA");
    }

    private static void WriteMerged(IAdapter adapter, float c, string source, string into)
    {
        JsonObject config = JsonFile.ReadObject(Path.Combine(source, "config.json")).Json;
        foreach (string type in new[] { "dtype", "torch_dtype" }.Where(config.ContainsKey))
            config[type] = "float32";
        config.Remove("quantization_config");
        File.WriteAllText(Path.Combine(into, "config.json"), config.ToJsonString(new() { WriteIndented = true }) + "\n");
        foreach (string file in Directory.GetFiles(source).Where(f => !f.EndsWith(".safetensors", StringComparison.Ordinal) && Path.GetFileName(f) is not ("config.json" or "model.safetensors.index.json")))
            if (Path.GetExtension(file) is ".json" or ".jinja" or ".txt" or ".model")
                File.Copy(file, Path.Combine(into, Path.GetFileName(file)));
        MergedWeights.Write(adapter, c, Path.Combine(into, "model.safetensors"));
    }
}
