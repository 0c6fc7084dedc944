using System.Globalization;
using System.Text;
using System.Text.Encodings.Web;
using System.Text.Json;
using System.Text.Json.Nodes;
using Repeng.Kernels;
using Repeng.Runtime;
using Repeng.Runtime.Formats;
using Repeng.Steering.Models;

namespace Repeng.Steering.Adapters.Peft;

/// <summary>
/// Reads and writes a folder of PEFT: adapter_config.json and adapter_model.safetensors, keys base_model.model.PATH.NAME without
/// the adapter's name. Every key must be expected and every expected key must be there.
/// </summary>
public static class PeftFile
{
    /// <summary>Beside a PSOFT adapter: its A and B, as PATH.A [r, in] and PATH.B [out, r]. PEFT's own files lack them.</summary>
    public const string PsoftBasesName = "psoft_bases.safetensors";

    private const string Prefix = "base_model.model.";
    private const string VeraA = "base_model.vera_A";
    private const string VeraB = "base_model.vera_B";

    /// <summary>Loads an adapter for a model. Throws <see cref="UserErrorException"/> for anything that does not fit.</summary>
    /// <param name="model">The base model.</param>
    /// <param name="folder">Folder with the two files.</param>
    /// <param name="psoftBases">A [r, in] and B [out, r] of a PSOFT module by its path; null takes them from <see cref="PsoftBasesName"/>.</param>
    public static PeftAdapter Load(DecoderModel model, string folder, Func<string, (float[] A, float[] B)>? psoftBases = null)
    {
        PeftConfig config = PeftConfig.Read(Path.Combine(folder, AdapterFile.ConfigName));
        string path = Path.Combine(folder, AdapterFile.ModelName);
        if (!File.Exists(path))
            throw new UserErrorException($"{folder}: no {AdapterFile.ModelName}{(File.Exists(Path.Combine(folder, "adapter_model.bin")) ? "; adapter_model.bin holds pickled Python objects, which are not read: save with safe_serialization" : "; give the folder that save_pretrained wrote")}");
        using ITensorSource source = SafetensorsFile.Open(path);
        // Where transformers holds all experts in one tensor its adapters pass them by, whatever they are called.
        LinearModule[] targets = [.. PeftTargets.Select(model, config).Where(t => t.WeightPart is null || source.Names.Any(n => n.StartsWith($"{Prefix}{t.Path}.", StringComparison.Ordinal)))];
        using ITensorSource? bases = config.Type == PeftType.Psoft && psoftBases is null ? OpenBases(folder) : null;
        var reader = new Reader(model, config, source);
        var layers = new List<PeftLayer>();
        VeraProjections? projections = null;
        try
        {
            reader.CheckKeys(targets);
            if (config.Type == PeftType.Vera)
                projections = reader.Projections(targets);
            foreach (LinearModule target in targets)
                layers.Add(reader.Layer(target, projections, psoftBases ?? (bases is null ? null : p => (ReadBase(bases, $"{p}.A", config.Rank, model.Linears[p].Inputs), ReadBase(bases, $"{p}.B", model.Linears[p].Outputs, config.Rank)))));
            return new PeftAdapter(model, config, layers, projections);
        }
        catch
        {
            layers.ForEach(l => l.Dispose());
            projections?.Dispose();
            throw;
        }
    }

    /// <summary>Writes the files into a folder that exists; the values are those of the tensors, bit by bit, in fp32.</summary>
    public static void Save(PeftAdapter adapter, string folder, string? baseModel)
    {
        var json = (JsonObject)adapter.Config.Json.DeepClone();
        if (baseModel is not null)
            json["base_model_name_or_path"] = baseModel;
        WriteConfig(json, folder);
        SafetensorsWriter writer = new SafetensorsWriter().SetMetadata("format", "pt");
        foreach (PeftLayer layer in adapter.Layers.Values)
            foreach ((string key, Tensor value) in layer.Stored)
                writer.Add($"{Prefix}{layer.Path}.{key}", Shape(value), value.ToArray());
        if (adapter.Projections is { } p && adapter.Config.SaveProjection)
        {
            writer.Add(VeraA, [p.Rank, p.Inputs], p.A);
            writer.Add(VeraB, [p.Outputs, p.Rank], p.B);
        }
        writer.Write(Path.Combine(folder, AdapterFile.ModelName));
        if (adapter.Config.Type != PeftType.Psoft)
            return;
        var bases = new SafetensorsWriter();
        foreach (PsoftLayer layer in adapter.Layers.Values.Cast<PsoftLayer>())
        {
            bases.Add($"{layer.Path}.A", [adapter.Config.Rank, layer.Module.Inputs], layer.A);
            bases.Add($"{layer.Path}.B", [layer.Module.Outputs, adapter.Config.Rank], layer.B);
        }
        bases.Write(Path.Combine(folder, PsoftBasesName));
    }

    /// <summary>Writes adapter_config.json.</summary>
    internal static void WriteConfig(JsonObject json, string folder)
    {
        string text = json.ToJsonString(new JsonSerializerOptions { WriteIndented = true, Encoder = JavaScriptEncoder.UnsafeRelaxedJsonEscaping }) + "\n";
        AtomicFile.Write(Path.Combine(folder, AdapterFile.ConfigName), s => s.Write(Encoding.UTF8.GetBytes(text)));
    }

    /// <summary>Key of a tensor in PEFT's file.</summary>
    internal static string Key(string path, string name) => $"{Prefix}{path}.{name}";

    private static long[] Shape(Tensor t) => [.. t.Shape.Select(s => (long)s)];

    private static SafetensorsFile OpenBases(string folder)
    {
        string path = Path.Combine(folder, PsoftBasesName);
        return File.Exists(path) ? SafetensorsFile.Open(path) : throw new UserErrorException($"{folder}: a PSOFT file does not say what its adapter is: A and B come from a singular value decomposition when it is loaded, and the sign of each singular pair, on which the result depends, is that of the library that made it. Write them from where it was trained as {PsoftBasesName} with PATH.A [r, in] and PATH.B [out, r]");
    }

    private static float[] ReadBase(ITensorSource source, string name, int rows, int columns)
    {
        source.Info(name, rows, columns);
        return Finite(source, name);
    }

    private static float[] Finite(ITensorSource source, string name)
    {
        float[] values = source.ReadF32(name);
        int bad = Array.FindIndex(values, v => !float.IsFinite(v));
        return bad < 0 ? values : throw new UserErrorException($"{source.Description}: {name} holds {values[bad].ToString(CultureInfo.InvariantCulture)} at element {bad} of {values.Length}; the adapter is damaged, fetch or train it again");
    }

    private sealed class Reader(DecoderModel model, PeftConfig config, ITensorSource source)
    {
        /// <summary>Refuses a file with keys that nothing reads, or without ones that are needed.</summary>
        public void CheckKeys(LinearModule[] targets)
        {
            var wanted = targets.SelectMany(t => Names(t.Path).Select(n => Key(t.Path, n))).ToHashSet();
            if (config.Type == PeftType.Vera && config.SaveProjection)
                wanted.UnionWith([VeraA, VeraB]);
            string[] extra = [.. source.Names.Where(n => !wanted.Contains(n))], missing = [.. wanted.Where(n => !source.Contains(n))];
            if (extra.Length > 0)
                throw new UserErrorException($"{source.Description}: {extra.Length} of {source.Names.Count} keys belong to no module that {config.Where} adapts on {model.Source}: {List(extra)}; the adapter is for another base model{Base()} or adapts what is not supported (embeddings, output head)");
            if (missing.Length > 0)
                throw new UserErrorException($"{source.Description}: {missing.Length} of {wanted.Count} keys that {config.Where} calls for on {model.Source} are missing: {List(missing)}; the file is not whole or the adapter is for another base model{Base()}");
        }

        /// <summary>VeRA's projections, from the file or from the key.</summary>
        public VeraProjections Projections(LinearModule[] targets)
        {
            if (!config.SaveProjection)
                return VeraProjections.Draw(model.Device, config.Rank, targets, config.ProjectionKey);
            int inputs = targets.Max(t => t.Inputs), outputs = targets.Max(t => t.Outputs);
            Check(VeraA, "the projections", config.Rank, inputs);
            Check(VeraB, "the projections", outputs, config.Rank);
            return new VeraProjections(model.Device, config.Rank, inputs, outputs, Finite(source, VeraA), Finite(source, VeraB));
        }

        public PeftLayer Layer(LinearModule t, VeraProjections? projections, Func<string, (float[] A, float[] B)>? psoftBases)
        {
            int r = config.Type is PeftType.Lora or PeftType.Delora ? PeftTargets.Rank(config, t.Path) : config.Rank;
            switch (config.Type)
            {
                case PeftType.Lora:
                    return new LoraLayer(t, PeftTargets.LoraScale(config, t.Path), Read(t, "lora_A.weight", r, t.Inputs), Read(t, "lora_B.weight", t.Outputs, r),
                        config.LoraBias ? Read(t, "lora_B.bias", t.Outputs) : null, config.Dora ? Read(t, "lora_magnitude_vector", t.Outputs) : null);
                case PeftType.Ia3:
                    bool feedForward = config.FeedForwardModules.Matches(t.Path);
                    return new Ia3Layer(t, feedForward, feedForward ? Read(t, "ia3_l", 1, t.Inputs) : Read(t, "ia3_l", t.Outputs, 1));
                case PeftType.Vera:
                    return new VeraLayer(t, Read(t, "vera_lambda_b", t.Outputs), Read(t, "vera_lambda_d", r), projections!.Down(t.Inputs), projections.Up(t.Outputs));
                case PeftType.Delora:
                    return new DeloraLayer(t, Read(t, "delora_A", r, t.Inputs), Read(t, "delora_B", t.Outputs, r), Read(t, "delora_lambda", 1), Read(t, "delora_w_norm", t.Inputs));
                case PeftType.Road:
                    if (t.Outputs % config.GroupSize != 0)
                        throw config.Error("group_size", $"{config.GroupSize} does not divide the {t.Outputs} outputs of {t.Path}");
                    int values = RoadLayer.Values(config.Variant, t.Outputs);
                    return new RoadLayer(t, config.Variant, config.GroupSize, Read(t, "road_theta", values), Read(t, "road_alpha", values));
                default:
                    (float[] a, float[] b) = psoftBases!(t.Path);
                    if (a.Length != r * t.Inputs || b.Length != t.Outputs * r)
                        throw new UserErrorException($"{t.Path}: A of {a.Length} and B of {b.Length} values are given, PSOFT of rank {r} needs [{r}, {t.Inputs}] and [{t.Outputs}, {r}]");
                    return new PsoftLayer(t, config, [.. Names(t.Path).Select(n => (n, Read(t, n, n == PsoftRotation.WeightKey ? r * (r - 1) / 2 : r)))], a, b);
            }
        }

        private IEnumerable<string> Names(string path) => config.Type switch
        {
            PeftType.Lora => ["lora_A.weight", "lora_B.weight", .. config.LoraBias ? ["lora_B.bias"] : (string[])[], .. config.Dora ? ["lora_magnitude_vector"] : (string[])[]],
            PeftType.Ia3 => ["ia3_l"],
            PeftType.Vera => ["vera_lambda_b", "vera_lambda_d"],
            PeftType.Delora => ["delora_A", "delora_B", "delora_lambda", "delora_w_norm"],
            PeftType.Road => ["road_theta", "road_alpha"],
            _ => [PsoftRotation.WeightKey, .. config.Flag("psoft_mag_a", true) ? [PsoftRotation.VectorA] : (string[])[], .. config.Flag("psoft_mag_b", true) ? [PsoftRotation.VectorB] : (string[])[]],
        };

        private Tensor Read(LinearModule target, string name, params int[] shape)
        {
            string key = Key(target.Path, name);
            Check(key, $"{target.Path} [{target.Outputs}, {target.Inputs}]", shape);
            return Tensor.From(model.Device, Finite(source, key), shape);
        }

        private void Check(string key, string of, params int[] shape)
        {
            TensorInfo info = source.Info(key);
            if (!info.Shape.SequenceEqual(shape.Select(s => (long)s)))
                throw new UserErrorException($"{source.Description}: {key} has shape {info.ShapeText}, {of} of {model.Source} needs [{string.Join(", ", shape)}] by the settings of {config.Where}; load the base model that the adapter belongs to{Base()}");
        }

        private string Base() => config.BaseModel is null ? "" : $" ({config.BaseModel})";

        private static string List(string[] keys) => string.Join(", ", keys.Take(3)) + (keys.Length > 3 ? " …" : "");
    }
}
