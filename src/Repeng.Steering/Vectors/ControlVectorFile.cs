using System.Globalization;
using Repeng.Kernels;
using Repeng.Runtime.Formats;
using Repeng.Steering.Adapters;
using Repeng.Steering.Models;

namespace Repeng.Steering.Vectors;

/// <summary>
/// Control vectors in GGUF files as repeng writes and llama.cpp reads them: architecture controlvector,
/// controlvector.model_hint, controlvector.layer_count, and one F32 tensor direction.LAYER [d] a layer.
/// </summary>
public static class ControlVectorFile
{
    private const string ArchitectureName = "controlvector";
    private const string HintKey = "controlvector.model_hint";
    private const string CountKey = "controlvector.layer_count";
    private const string Prefix = "direction.";

    // ggml's tensor names hold 63 bytes; a longer one is cut there and matches nothing.
    private const int MostNameBytes = 63;

    /// <summary>
    /// Writes a vector; several components are summed for llama.cpp, or kept as [k, d] with keepComponents (what this
    /// project and the research branch read). forLlamaCpp refuses what llama.cpp would not read: layer 0, module paths, layers of different widths.
    /// </summary>
    public static void Write(string path, ControlVector vector, bool forLlamaCpp = false, bool keepComponents = false)
    {
        if (forLlamaCpp)
            CheckForLlamaCpp(vector);
        var writer = new GgufWriter(ArchitectureName);
        writer.Add(HintKey, vector.ModelType);
        writer.Add(CountKey, (uint)vector.Layers.Count);
        foreach (string layer in vector.Layers)
        {
            Direction direction = vector.Directions[layer];
            string name = Prefix + layer;
            if (System.Text.Encoding.UTF8.GetByteCount(name) > MostNameBytes)
                throw new UserErrorException($"{path}: tensor name {name} is longer than the {MostNameBytes} bytes of GGUF readers; steer a block, or a module with a shorter path");
            if (keepComponents && !forLlamaCpp)
                writer.AddTensor(name, [direction.Components, direction.Width], direction.Values);
            else
                writer.AddTensor(name, [direction.Width], direction.Components == 1 ? direction.Values : direction.Sum());
        }
        writer.Write(path);
    }

    /// <summary>Reads a vector to steer a model with. As <see cref="Read"/>, and throws where the file says that it was made for another type of model.</summary>
    public static ControlVector ReadFor(DecoderModel model, string path, Action<string>? warn = null)
    {
        ControlVector vector = Read(path, warn);
        return vector.ModelType == model.Config.ModelType
            ? vector
            : throw new UserErrorException($"{path}: made for a model of type {vector.ModelType}, {model.Source} is of type {model.Config.ModelType}; where both names mean one model (as in files of two formats), write it anew with vector import {path} --model MODEL -o FILE");
    }

    /// <summary>Reads a vector. warn hears of what is odd but readable. Throws <see cref="UserErrorException"/> for a file that is no control vector or whose values are no numbers.</summary>
    public static ControlVector Read(string path, Action<string>? warn = null)
    {
        if (Directory.Exists(path))
            throw new UserErrorException(File.Exists(Path.Combine(path, AdapterFile.ConfigName))
                ? $"{path} is an adapter, no control vector: what it adds depends on a layer's input (as does what vector train --method {WeightSvdSteering.Name} makes), and a GGUF control vector adds the same to every token; use generate --adapter, eval --adapter, or export for PEFT"
                : $"{path} is a folder; give the .gguf file of a control vector");
        using GgufFile file = GgufFile.Open(path);
        if (file.Architecture != ArchitectureName)
            throw new UserErrorException($"{path}: general.architecture is {file.Architecture ?? "missing"} where a control vector has {ArchitectureName}; this is no control vector{(file.Architecture is { } a ? $" but a {a} file" : "")}, give a file that vector train, repeng or llama.cpp's cvector-generator wrote");
        string hint = file.Metadata.OptionalText(HintKey)
            ?? throw new UserErrorException($"{path}: no {HintKey}; this is no control vector, or a damaged one");
        var directions = new List<KeyValuePair<string, Direction>>();
        foreach (string name in file.Names)
        {
            if (!name.StartsWith(Prefix, StringComparison.Ordinal))
            {
                warn?.Invoke($"{path}: tensor {name} is no direction and is left out");
                continue;
            }
            string layer = name[Prefix.Length..];
            int[] shape = [.. file.Info(name).Shape.Select(x => checked((int)x))];
            if (layer.Length == 0 || shape.Length is 0 or > 2 || shape.Contains(0))
                throw new UserErrorException($"{path}: tensor {name} [{string.Join(", ", shape)}] is no direction; it must be named {Prefix}LAYER and have the shape [d] or [k, d]");
            // "07" and "7" would be two keys for one block.
            if (ControlVector.BlockOf(layer) is { } block && layer != block.ToString(CultureInfo.InvariantCulture))
                layer = block.ToString(CultureInfo.InvariantCulture);
            directions.Add(KeyValuePair.Create(layer, new Direction(file.ReadF32(name), shape.Length == 2 ? shape[0] : 1)));
        }
        if (directions.Count == 0)
            throw new UserErrorException($"{path}: no tensor {Prefix}LAYER in it; this control vector is empty");
        if (file.Metadata.OptionalInteger(CountKey) is { } count && count != directions.Count)
            warn?.Invoke($"{path}: {CountKey} is {count}, but there are {directions.Count} directions");
        try
        {
            return new ControlVector(hint, directions);
        }
        catch (UserErrorException e)
        {
            throw new UserErrorException($"{path}: {e.Message}", e);
        }
    }

    private static void CheckForLlamaCpp(ControlVector vector)
    {
        foreach (string layer in vector.Layers)
        {
            if (ControlVector.BlockOf(layer) is not { } block)
                throw new UserErrorException($"layer {layer} is a module; llama.cpp knows the outputs of blocks only (direction.NUMBER): train on blocks");
            if (block == 0)
                throw new UserErrorException("llama.cpp refuses direction.0: it cannot steer the first block; leave layer 0 out (vector export --drop_layer_0, or vector train --layer_range 1:)");
        }
        if (vector.Directions.Values.Select(d => d.Width).Distinct().Count() > 1)
            throw new UserErrorException("llama.cpp needs directions of one width");
    }
}
