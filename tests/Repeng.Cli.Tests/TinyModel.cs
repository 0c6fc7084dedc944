using System.Text.Json.Nodes;
using Repeng.Runtime.Formats;
using Repeng.Steering.Demo;
using Repeng.Steering.Models;

namespace Repeng.Cli.Tests;

/// <summary>A folder that goes when the test ends, with small random models in it.</summary>
public sealed class Workshop : IDisposable
{
    /// <summary>Recipe of the models: two blocks, width 32.</summary>
    public static DemoModelRecipe Recipe { get; } = new() { Layers = 2, Hidden = 32, Intermediate = 48, Heads = 1, KvHeads = 1 };

    /// <summary>The folder.</summary>
    public string Root { get; } = Directory.CreateTempSubdirectory("repeng-cli-").FullName;

    /// <summary>A path in it.</summary>
    public string At(string name) => Path.Combine(Root, name);

    /// <summary>Writes a random model; change may spoil its config, weights one of its tensors.</summary>
    public string Model(string name = "model", ulong seed = 3, Action<JsonObject>? change = null, Action<string, float[]>? weights = null)
    {
        string folder = Directory.CreateDirectory(At(name)).FullName;
        JsonObject json = Recipe.Config();
        using (var random = new ModelInitialiser(Families.Read(new ConfigReader(json, name)), seed, 0.2))
        {
            var writer = new SafetensorsWriter();
            foreach (string tensor in random.Names)
            {
                Assert.True(random.TryGetInfo(tensor, out TensorInfo info));
                float[] values = random.ReadF32(tensor);
                weights?.Invoke(tensor, values);
                writer.Add(tensor, info.Shape.ToArray(), values);
            }
            writer.Write(Path.Combine(folder, "model.safetensors"));
        }
        change?.Invoke(json);
        File.WriteAllText(Path.Combine(folder, "config.json"), json.ToJsonString());
        DemoTokenizerFiles.Write(folder);
        return folder;
    }

    /// <summary>Stores a model's weights anew as F32, F16 or BF16, rounded down where they do not fit, in so many shards.</summary>
    public void Store(string model, string type, int shards)
    {
        string whole = Path.Combine(model, "model.safetensors");
        var files = new SafetensorsWriter[shards];
        var map = new JsonObject();
        using (SafetensorsFile source = SafetensorsFile.Open(whole))
            for (int i = 0; i < source.Names.Count; i++)
            {
                string name = source.Names[i];
                byte[] bytes = [.. source.ReadF32(name).SelectMany(v => type switch
                {
                    "F16" => BitConverter.GetBytes((Half)v),
                    "BF16" => BitConverter.GetBytes((ushort)(BitConverter.SingleToUInt32Bits(v) >> 16)),
                    _ => BitConverter.GetBytes(v),
                })];
                (files[i % shards] ??= new SafetensorsWriter()).AddRaw(name, type, source.Info(name).Shape, bytes);
                map[name] = $"model-{i % shards + 1:00000}-of-{shards:00000}.safetensors";
            }
        File.Delete(whole);
        for (int i = 0; i < shards; i++)
            files[i].Write(shards == 1 ? whole : Path.Combine(model, $"model-{i + 1:00000}-of-{shards:00000}.safetensors"));
        if (shards > 1)
            File.WriteAllText(Path.Combine(model, "model.safetensors.index.json"), new JsonObject { ["metadata"] = new JsonObject(), ["weight_map"] = map }.ToJsonString());
    }

    /// <summary>A small training of a model: 36 batches, an optimiser step every other one.</summary>
    public string[] Train(string model, string run, params string[] more) =>
    [
        "train", "--model", model, "--personas", "honest:dishonest,truthful:deceptive", "--suffixes", "demo", "--max_pairs", "16", "--rank", "4", "--batch_size", "4",
        "--n_epochs", "6", "--lr", "1e-2", "--grad_accum_steps", "2", "--val_split", "0.25", "--patience", "4", "--threads", "2", "--log_n", "1000",
        "--output_dir", At("runs"), "--run_name", run, .. more,
    ];

    /// <inheritdoc/>
    public void Dispose() => Directory.Delete(Root, recursive: true);
}
