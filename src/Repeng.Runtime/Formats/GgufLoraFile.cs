using System.Text.Json.Nodes;
using Repeng.Kernels;

namespace Repeng.Runtime.Formats;

/// <summary>
/// LoRA adapters as llama.cpp reads them (llama-adapter.cpp): general.type adapter, adapter.type lora, and for every
/// layer the tensors NAME.weight.lora_a [r, in] and NAME.weight.lora_b [out, r], rows of b moved as those of the weight are;
/// for the experts of a block one tensor each, [experts, r, in] and [experts, out, r].
/// </summary>
public static class GgufLoraFile
{
    private const string A = ".lora_a", B = ".lora_b";

    /// <summary>What has to be known of the base model to read names and order of rows.</summary>
    /// <param name="ModelType">model_type of its config.json.</param>
    /// <param name="Name">What messages call it.</param>
    /// <param name="Blocks">Number of blocks.</param>
    /// <param name="Experts">Experts of a block, 0 for none.</param>
    /// <param name="Hidden">Width.</param>
    /// <param name="Heads">Heads of queries.</param>
    /// <param name="KeyValueHeads">Heads of keys and values.</param>
    /// <param name="HeadDim">Width of a head.</param>
    /// <param name="AttentionScale">What scores are multiplied by.</param>
    public sealed record Base(string ModelType, string Name, int Blocks, int Experts, int Hidden, int Heads, int KeyValueHeads, int HeadDim, double AttentionScale);

    /// <summary>The change of one linear layer: B [out, r] · A [r, in].</summary>
    /// <param name="Path">Dotted path of the layer, such as model.layers.0.self_attn.q_proj.</param>
    /// <param name="Outputs">Rows of B.</param>
    /// <param name="Inputs">Columns of A.</param>
    /// <param name="B">Row-major.</param>
    /// <param name="A">Row-major.</param>
    public sealed record Layer(string Path, int Outputs, int Inputs, float[] B, float[] A)
    {
        /// <summary>r.</summary>
        public int Rank => B.Length / Outputs;
    }

    /// <summary>Writes the file; at llama.cpp's scale 1 the layers' weights change by B·A.</summary>
    /// <param name="path">File to write.</param>
    /// <param name="config">Fields of the base model's config.json.</param>
    /// <param name="configSource">What messages call the configuration.</param>
    /// <param name="layers">At least one layer.</param>
    /// <param name="name">general.name, or null.</param>
    /// <exception cref="UserErrorException">The family is unknown to GGUF, or a layer has no name there.</exception>
    public static void Write(string path, JsonObject config, string configSource, IReadOnlyList<Layer> layers, string? name)
    {
        var fields = new JsonFields(config, configSource);
        GgufFamily family = GgufModelWriter.FamilyOf(fields);
        long heads = fields.OptionalInteger("num_attention_heads") ?? 0, keyValueHeads = fields.OptionalInteger("num_key_value_heads") ?? heads;
        long headDim = fields.OptionalInteger("head_dim") ?? (heads > 0 ? fields.Integer("hidden_size") / heads : 0);
        var writer = new GgufWriter(family.Architecture);
        writer.Add("general.type", "adapter").Add("adapter.type", "lora");
        if (name is not null)
            writer.Add("general.name", name);
        int experts = family.Fields.FirstOrDefault(f => f.Gguf == "expert_count") is { } count ? fields.Int32(count.Config, 1) : 0;
        List<(string Name, int Rank, long[] Stack, float[] A, long Inputs, float[] B, long Outputs)> written = [];
        var stacks = new Dictionary<string, SortedDictionary<int, Layer>>(StringComparer.Ordinal);
        foreach (Layer layer in layers)
        {
            (string gguf, int? expert) = family.ToGguf(layer.Path + ".weight")
                ?? throw FileErrors.Bad(configSource, $"layer {layer.Path} has no name in llama.cpp's {family.Architecture}");
            if (expert is { } e)
            {
                if (!stacks.TryGetValue(gguf, out SortedDictionary<int, Layer>? stack))
                    stacks.Add(gguf, stack = []);
                stack.Add(e, layer);
                continue;
            }
            GgufRows? order = family.RowsOf(gguf, heads, keyValueHeads, headDim);
            if (order is { } o && layer.Outputs != o.Count)
                throw FileErrors.Bad(configSource, $"layer {layer.Path} has {layer.Outputs} outputs, needed are {o.Text}");
            float scale = GgufModelWriter.ScalesQueries(family, gguf) ? GgufConfig.QueryScale(fields, family) : 1;
            written.Add((gguf, layer.Rank, [], layer.A, layer.Inputs, Rows(layer.B, layer.Rank, r => order?.InSource(r) ?? r, scale), layer.Outputs));
        }
        written.AddRange(stacks.Select(s => Stacked(s.Key, s.Value, experts)));
        // llama.cpp multiplies by alpha / rank, and by 1 where alpha is 0.
        int[] ranks = [.. written.Select(l => l.Rank).Distinct()];
        writer.Add("adapter.lora.alpha", ranks.Length == 1 ? (float)ranks[0] : 0f);
        foreach ((string gguf, int rank, long[] stack, float[] a, long inputs, float[] b, long outputs) in written)
        {
            writer.AddTensor(gguf + A, [.. stack, rank, inputs], a);
            writer.AddTensor(gguf + B, [.. stack, outputs, rank], b);
        }
        writer.Write(path);
    }

    /// <summary>
    /// Reads a LoRA for a base model: what it adds to each layer's weight at llama.cpp's scale 1, factor α / r included in B,
    /// rows in the order of config.json's world, experts one by one.
    /// </summary>
    /// <exception cref="UserErrorException">No LoRA, one of another architecture, or a tensor that is not whole, not finite or has no place in the model.</exception>
    public static IReadOnlyList<Layer> Read(string path, Base model)
    {
        using GgufFile file = GgufFile.Open(path);
        GgufFamily family = Check(file, path, model);
        double alpha = file.Metadata.OptionalNumber("adapter.lora.alpha") ?? 0;
        if (file.Names.FirstOrDefault(n => !n.EndsWith(A, StringComparison.Ordinal) && !n.EndsWith(B, StringComparison.Ordinal)) is { } other)
            throw FileErrors.Bad(path, $"tensor {FileErrors.Quote(other)} is neither {A[1..]} nor {B[1..]} of a layer; a LoRA holds nothing else");
        string[] stems = [.. file.Names.Select(n => n[..^A.Length]).Distinct()];
        if (stems.Length == 0)
            throw FileErrors.Bad(path, "holds no tensor; this LoRA is empty");
        var layers = new List<Layer>();
        foreach (string stem in stems)
            layers.AddRange(ReadLayer(file, stem, family, model, alpha));
        return layers;
    }

    private static GgufFamily Check(GgufFile file, string path, Base model)
    {
        string kind = file.Metadata.OptionalText("general.type") ?? "model";
        if (file.Architecture == "controlvector")
            throw FileErrors.Bad(path, "is a control vector, no adapter; give it as --vector");
        if (kind != "adapter")
            throw FileErrors.Bad(path, $"general.type is {FileErrors.Quote(kind)}, an adapter is needed; give a model as --model");
        if (file.Metadata.OptionalText("adapter.type") is var type && type != "lora")
            throw FileErrors.Bad(path, $"adapter.type is {(type is null ? "missing" : FileErrors.Quote(type))}; lora is the one that is read");
        if (file.Metadata.Has("adapter.alora.invocation_tokens"))
            throw FileErrors.Bad(path, "is an activated LoRA (adapter.alora.invocation_tokens), which acts behind certain tokens only; that is not supported, only plain LoRAs are");
        GgufFamily family = GgufFamily.OfModelType(model.ModelType)
            ?? throw FileErrors.Bad(path, $"is for llama.cpp's architectures, and {model.Name} is of type {model.ModelType}, which has none here; take the LoRA as a folder of PEFT");
        return file.Architecture == family.Architecture ? family
            : throw FileErrors.Bad(path, $"is for a model of architecture {(file.Architecture is { } a ? FileErrors.Quote(a) : "(missing)")}, {model.Name} ({model.ModelType}) is {family.Architecture}; load the base model that the adapter belongs to");
    }

    private static IEnumerable<Layer> ReadLayer(GgufFile file, string stem, GgufFamily family, Base model, double alpha)
    {
        string path = file.Description;
        IReadOnlyList<string> names = family.FromGguf(stem, model.Blocks, model.Experts) is { } found && found[0].EndsWith(".weight", StringComparison.Ordinal) ? found
            : throw FileErrors.Bad(path, $"{FileErrors.Quote(stem)} is no linear layer of a {family.Architecture} model of {model.Blocks} blocks; the LoRA is for another base model than {model.Name}");
        TensorInfo a = Part(A), b = Part(B);
        bool stacked = stem.Contains("_exps.", StringComparison.Ordinal);
        int dimensions = stacked ? 3 : 2, rank = (int)Math.Min(b.RowLength, int.MaxValue), inputs = (int)Math.Min(a.RowLength, int.MaxValue);
        if (a.Shape.Length != dimensions || b.Shape.Length != dimensions || a.Shape[^2] != rank || a.Elements == 0 || b.Elements == 0 || a.Elements > Array.MaxLength || b.Elements > Array.MaxLength || stacked && (a.Shape[0] != model.Experts || b.Shape[0] != model.Experts))
            throw FileErrors.Bad(path, $"{FileErrors.Quote(stem)} has lora_a {a.ShapeText} and lora_b {b.ShapeText}; {(stacked ? $"[{model.Experts}, r, in] and [{model.Experts}, out, r]" : "[r, in] and [out, r]")} are needed");
        int outputs = (int)b.Shape[^2];
        GgufRows? order = family.RowsOf(stem, model.Heads, model.KeyValueHeads, model.HeadDim);
        if (order is { } o && outputs != o.Count)
            throw FileErrors.Bad(path, $"{FileErrors.Quote(stem)} has {outputs} outputs, {model.Name} has {o.Text}; load the base model that the adapter belongs to");
        float[] allA = Finite(a), allB = Finite(b);
        double scale = (alpha == 0 ? 1 : alpha / rank) / (GgufModelWriter.ScalesQueries(family, stem) ? QueryScale(family, model) : 1);
        for (int e = 0; e < names.Count; e++)
        {
            float[] part = allB.AsSpan(e * outputs * rank, outputs * rank).ToArray();
            float[] scaled = Rows(part, rank, r => order?.InFile(r) ?? r, (float)scale);
            if (Array.FindIndex(scaled, v => !float.IsFinite(v)) is var bad and >= 0)
                throw FileErrors.Bad(path, $"{FileErrors.Quote(stem + B)} times its factor {scale:g3} (adapter.lora.alpha {alpha:g3}, rank {rank}) is {scaled[bad]}, which is no number of fp32; the adapter is damaged");
            yield return new Layer(names[e][..^".weight".Length], outputs, inputs, scaled, allA.AsSpan(e * rank * inputs, rank * inputs).ToArray());
        }

        TensorInfo Part(string suffix) => file.TryGetInfo(stem + suffix, out TensorInfo info) ? info
            : throw FileErrors.Bad(path, $"{FileErrors.Quote(stem)} has no {suffix[1..]}; the LoRA is not whole, fetch or convert it again");

        float[] Finite(TensorInfo info)
        {
            float[] values = file.ReadF32(info.Name);
            int bad = Array.FindIndex(values, v => !float.IsFinite(v));
            return bad < 0 ? values : throw FileErrors.Bad(path, $"tensor {FileErrors.Quote(info.Name)} holds {values[bad]} at element {bad} of {values.Length}; the adapter is damaged");
        }
    }

    // As GgufConfig.QueryScale, from what the model multiplies scores by.
    private static double QueryScale(GgufFamily family, Base model) => family.BlocksOfOtherScale is not { } other ? 1
        : model.AttentionScale * Math.Sqrt(model.Blocks == other ? (double)model.Hidden / model.Heads : model.HeadDim);

    // Experts that are not adapted, and ranks below the largest, are zeros.
    private static (string, int, long[], float[], long, float[], long) Stacked(string gguf, SortedDictionary<int, Layer> layers, int experts)
    {
        Layer first = layers.Values.First();
        int rank = layers.Values.Max(l => l.Rank), inputs = first.Inputs, outputs = first.Outputs;
        var a = new float[checked(experts * rank * inputs)];
        var b = new float[checked(experts * outputs * rank)];
        foreach ((int e, Layer layer) in layers)
        {
            layer.A.CopyTo(a.AsSpan(e * rank * inputs));
            for (int o = 0; o < outputs; o++)
                layer.B.AsSpan(o * layer.Rank, layer.Rank).CopyTo(b.AsSpan((e * outputs + o) * rank));
        }
        return (gguf, rank, [experts], a, inputs, b, outputs);
    }

    /// <summary>Rows of b in another order, each times a factor.</summary>
    private static float[] Rows(float[] b, int rank, Func<int, long> source, float scale)
    {
        var moved = new float[b.Length];
        for (int row = 0; row < b.Length / rank; row++)
        {
            long from = source(row) * rank;
            for (int j = 0; j < rank; j++)
                moved[row * rank + j] = b[from + j] * scale;
        }
        return moved;
    }
}
