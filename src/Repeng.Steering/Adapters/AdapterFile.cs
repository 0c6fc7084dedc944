using System.Globalization;
using System.Text.Json.Nodes;
using Repeng.Kernels;
using Repeng.Runtime;
using Repeng.Runtime.Formats;
using Repeng.Steering.Adapters.Peft;
using Repeng.Steering.Models;

namespace Repeng.Steering.Adapters;

/// <summary>
/// Reads and writes a saved adapter: adapter_config.json and adapter_model.safetensors with the names that the
/// original software uses, and svd_bases.safetensors with the bases, so that a reload is exact (singular vectors
/// have no sign of their own).
/// </summary>
public static class AdapterFile
{
    /// <summary>File of the settings.</summary>
    public const string ConfigName = "adapter_config.json";

    /// <summary>File of the trained tensors.</summary>
    public const string ModelName = "adapter_model.safetensors";

    /// <summary>File of the bases.</summary>
    public const string BasesName = "svd_bases.safetensors";

    private const string Prefix = "base_model.model.";

    /// <summary>Writes the three files into a folder that exists.</summary>
    public static void Save(SvdAdapter adapter, string folder, string baseModel)
    {
        SvdAdapterConfig c = adapter.Config;
        var json = new JsonObject
        {
            ["peft_type"] = c.Scale == ScaleMethod.Add ? "APASTOADAPTER" : "TRMSVFT",
            ["task_type"] = "CAUSAL_LM",
            ["base_model_name_or_path"] = baseModel,
            ["base_model_fingerprint"] = adapter.Model.Fingerprint,
            ["r"] = c.Rank,
            ["rotate_u"] = c.RotateU,
            ["rotate_v"] = c.RotateV,
            ["rotation_method"] = Names.Rotation(c.Rotation),
            ["block_size"] = c.Rotation == RotationMethod.BlockDiagonal ? c.BlockSize : null,
            ["scale_s"] = Names.Scale(c.Scale),
            ["max_rotation_angle"] = c.MaxRotationAngle,
            ["alpha"] = 1.0,
            ["target_modules"] = c.TargetModules,
            ["modules"] = new JsonArray([.. adapter.Layers.Keys.Select(k => (JsonNode)k)]),
        };
        AtomicFile.Write(Path.Combine(folder, ConfigName), s => s.Write(System.Text.Encoding.UTF8.GetBytes(json.ToJsonString(new() { WriteIndented = true }) + "\n")));
        var trained = new SafetensorsWriter();
        var bases = new SafetensorsWriter();
        foreach (SvdLayer layer in adapter.Layers.Values)
        {
            foreach ((string suffix, Tensor p) in layer.Parameters)
                trained.Add($"{Prefix}{layer.Path}.{suffix}", Shape(p), p.ToArray());
            bases.Add($"{layer.Path}.u", Shape(layer.U), layer.U.ToArray());
            bases.Add($"{layer.Path}.s", Shape(layer.S), layer.S.ToArray());
            bases.Add($"{layer.Path}.v", Shape(layer.V), layer.V.ToArray());
        }
        trained.Write(Path.Combine(folder, ModelName));
        bases.Write(Path.Combine(folder, BasesName));
    }

    /// <summary>The base model that a saved adapter names, as its training was given it; null when it names none.</summary>
    public static string? ReadBaseModel(string folder)
    {
        if (GgufLora.IsGguf(folder))
            throw new UserErrorException($"{folder}: a LoRA in GGUF does not say where its base model is; give it as --model");
        string path = Path.Combine(folder, ConfigName);
        if (!File.Exists(path))
            throw new UserErrorException($"{folder}: no {ConfigName}; give the folder that train wrote, one of PEFT, or the .gguf file of a LoRA");
        JsonObject json = JsonFile.Read(path) as JsonObject ?? throw new UserErrorException($"{path}: a JSON object is needed");
        return new ConfigReader(json, path).OptionalString("base_model_name_or_path");
    }

    /// <summary>Loads an adapter of any kind for a model: one of this project's own or a folder of PEFT, by the peft_type in its settings, or a LoRA of llama.cpp in a .gguf file.</summary>
    public static IAdapter LoadAny(DecoderModel model, string folder)
    {
        if (GgufLora.IsGguf(folder))
            return GgufLora.Load(model, folder);
        string path = Path.Combine(folder, ConfigName);
        if (!File.Exists(path))
            throw new UserErrorException($"{folder}: no {ConfigName}; give the folder that train wrote, one of PEFT, or the .gguf file of a LoRA");
        string? type = JsonFile.ReadObject(path).OptionalText("peft_type");
        return type is null or "TRMSVFT" or "APASTOADAPTER" ? Load(model, folder) : PeftFile.Load(model, folder);
    }

    /// <summary>Loads an SVD adapter for a model; refuses one that was trained on another base model.</summary>
    public static SvdAdapter Load(DecoderModel model, string folder)
    {
        string configPath = Path.Combine(folder, ConfigName);
        if (!File.Exists(configPath))
            throw new UserErrorException($"{folder}: no {ConfigName}; give the folder that train wrote");
        JsonObject json = JsonFile.Read(configPath) as JsonObject ?? throw new UserErrorException($"{configPath}: a JSON object is needed");
        var reader = new ConfigReader(json, configPath);
        string? fingerprint = reader.OptionalString("base_model_fingerprint");
        if (fingerprint is not null && fingerprint != model.Fingerprint)
            throw new UserErrorException($"{folder}: this adapter was trained on {reader.OptionalString("base_model_name_or_path")} (fingerprint {fingerprint}), the model here is {model.Source} (fingerprint {model.Fingerprint}); load the model that it belongs to");
        (SvdAdapterConfig config, string[] modules) = ReadConfig(model, reader);
        using ITensorSource trained = SafetensorsFile.Open(Path.Combine(folder, ModelName));
        using ITensorSource bases = SafetensorsFile.Open(Path.Combine(folder, BasesName));
        var layers = new List<SvdLayer>();
        try
        {
            foreach (string module in modules)
            {
                if (!model.Linears.TryGetValue(module, out LinearModule? linear))
                    throw new UserErrorException($"{configPath}: module {module} is no linear layer of {model.Source}");
                if (layers.Any(l => l.Path == module))
                    throw new UserErrorException($"{configPath}: modules names {module} twice; a layer has one adapter");
                layers.Add(LoadLayer(model.Device, config, linear, trained, bases));
            }
            return new SvdAdapter(config, model, layers);
        }
        catch
        {
            layers.ForEach(l => l.Dispose());
            throw;
        }
    }

    private static (SvdAdapterConfig, string[]) ReadConfig(DecoderModel model, ConfigReader reader)
    {
        try
        {
            var config = new SvdAdapterConfig
            {
                Rank = reader.Size("r", limit: 65536),
                RotateU = reader.Bool("rotate_u", false),
                RotateV = reader.Bool("rotate_v", true),
                Rotation = Names.ParseRotation(reader.OptionalString("rotation_method") ?? "cayley"),
                BlockSize = reader.OptionalInt("block_size") ?? 0,
                Scale = Names.ParseScale(reader.OptionalString("scale_s") ?? "add2"),
                MaxRotationAngle = reader.OptionalDouble("max_rotation_angle"),
                TargetModules = reader.OptionalString("target_modules") ?? "",
            };
            config.Validate();
            string[] modules = reader.OptionalStrings("modules") ?? [.. SvdAdapter.Match(model, config.TargetModules).Select(m => m.Path)];
            return (config, modules);
        }
        catch (UserErrorException e) when (!e.Message.Contains(reader.Source, StringComparison.Ordinal))
        {
            // A name or value that the adapter's settings refuse without knowing of a file.
            throw new UserErrorException($"{reader.Source}: {e.Message}", e);
        }
    }

    private static SvdLayer LoadLayer(Device device, SvdAdapterConfig config, LinearModule linear, ITensorSource trained, ITensorSource bases)
    {
        int r = config.Rank, n = config.Rotation == RotationMethod.BlockDiagonal ? config.BlockSize : r;
        int[] rotation = config.Rotation == RotationMethod.BlockDiagonal ? [r / n, n, n] : [n, n];
        string path = linear.Path;
        return new SvdLayer(config, path,
            Read(bases, $"{path}.u", linear.Outputs, r), Read(bases, $"{path}.s", r), Read(bases, $"{path}.v", linear.Inputs, r),
            config.Scale == ScaleMethod.None ? null : Read(trained, $"{Prefix}{path}.{config.ScaleParameter}", r),
            config.RotateU ? Read(trained, $"{Prefix}{path}.{config.RotationPrefix}u", rotation) : null,
            config.RotateV ? Read(trained, $"{Prefix}{path}.{config.RotationPrefix}v", rotation) : null);

        Tensor Read(ITensorSource source, string name, params int[] shape)
        {
            source.Info(name, [.. shape.Select(s => (long)s)]);
            float[] values = source.ReadF32(name);
            foreach (float x in values)
                if (!float.IsFinite(x))
                    throw new UserErrorException($"{source.Description}: {name} holds {x.ToString(CultureInfo.InvariantCulture)}; the adapter is damaged");
            return Tensor.From(device, values, shape);
        }
    }

    private static long[] Shape(Tensor t) => [.. t.Shape.Select(s => (long)s)];
}
