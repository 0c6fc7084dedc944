using System.Text.Json.Nodes;
using Repeng.Kernels;

namespace Repeng.Runtime.Formats;

/// <summary>
/// A language model in a GGUF file, seen as a Hugging Face folder would show it: config.json, tensors under their
/// Hugging Face names and row order, tokenizer data. Two things stay as llama.cpp has them, because nothing is gained by
/// turning values: weights of norms are what is multiplied by (of Gemma 1 + w), and linear weights are [out, in] (also GPT-2's).
/// </summary>
public sealed class GgufModel : IDisposable
{
    private readonly GgufFile _file;

    private GgufModel(GgufFile file, GgufFamily family, GgufTensors tensors, JsonObject config, GgufTokenizer? tokenizer) =>
        (_file, Family, Tensors, Config, Tokenizer) = (file, family, tensors, config, tokenizer);

    /// <summary>Tensors by their Hugging Face names, such as model.layers.0.self_attn.q_proj.weight.</summary>
    public ITensorSource Tensors { get; }

    /// <summary>The fields of a config.json; numbers exactly as the file stores them.</summary>
    public JsonObject Config { get; }

    /// <summary>Vocabulary, merges, special tokens and chat template; null where the file holds no tokenizer.</summary>
    public GgufTokenizer? Tokenizer { get; }

    /// <summary>Names of the architectures that can be read, for messages.</summary>
    public static string Architectures => GgufFamily.Architectures;

    internal GgufFamily Family { get; }

    /// <summary>The file below, with its own names and metadata.</summary>
    public GgufFile File => _file;

    /// <summary>Opens a model; <see cref="UserErrorException"/> for another architecture or anything wrong in the file.</summary>
    public static GgufModel Open(string path)
    {
        GgufFile file = GgufFile.OpenWhole(path);
        try
        {
            GgufFamily family = FamilyOf(file);
            JsonObject config = GgufConfig.Read(file, family);
            var tensors = new GgufTensors(file, family, config);
            GgufTokenizer? tokenizer = GgufTokenizer.Read(file);
            long rows = config["vocab_size"]!.GetValue<long>();
            if (tokenizer?.Tokens.Length > rows)
                throw file.Metadata.Bad("tokenizer.ggml.tokens", $"lists {tokenizer.Tokens.Length} tokens, the embedding has {rows} rows");
            return new GgufModel(file, family, tensors, config, tokenizer);
        }
        catch
        {
            file.Dispose();
            throw;
        }
    }

    /// <inheritdoc/>
    public void Dispose() => _file.Dispose();

    private static GgufFamily FamilyOf(GgufFile file)
    {
        string architecture = file.Metadata.Text(GgufFile.ArchitectureKey);
        if (architecture == "controlvector")
            throw FileErrors.Bad(file.Description, "holds a control vector, a model is needed");
        if (file.Metadata.Has("general.type") && file.Metadata.Text("general.type") is not "model" and var type)
            throw FileErrors.Bad(file.Description, $"general.type is {FileErrors.Quote(type)}, a model is needed");
        return GgufFamily.Of(architecture, file.Metadata)
            ?? throw FileErrors.Bad(file.Description, $"architecture {FileErrors.Quote(architecture)} is not supported from GGUF; supported are {Architectures}. The same model as a Hugging Face folder may work");
    }
}
