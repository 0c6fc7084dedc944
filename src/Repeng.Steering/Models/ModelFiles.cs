using System.Text.Json.Nodes;
using Repeng.Kernels;
using Repeng.Runtime.Formats;
using Repeng.Runtime.Tokenizers;

namespace Repeng.Steering.Models;

/// <summary>What the files of a model say, for conversion: configuration, tensors and tokenizer, without a model that runs.</summary>
public sealed class ModelFiles : IDisposable
{
    private readonly GgufModel? _gguf;

    private ModelFiles(string path, JsonObject config, string configSource, ITensorSource tensors, GgufModel? gguf) =>
        (Path, Config, ConfigSource, Tensors, _gguf) = (path, config, configSource, tensors, gguf);

    /// <summary>Folder or .gguf file.</summary>
    public string Path { get; }

    /// <summary>Fields of config.json.</summary>
    public JsonObject Config { get; }

    /// <summary>Where the configuration came from, for messages.</summary>
    public string ConfigSource { get; }

    /// <summary>Tensors by their Hugging Face names.</summary>
    public ITensorSource Tensors { get; }

    /// <summary>Whether norms and linear weights are as a GGUF file has them (see <see cref="GgufModel"/>).</summary>
    public bool IsGguf => _gguf is not null;

    /// <summary>Opens a model by its name, as <see cref="ModelBundle.Load"/> does.</summary>
    public static ModelFiles Open(string model)
    {
        string path = ModelBundle.Locate(model);
        if (File.Exists(path))
        {
            GgufModel gguf = GgufModel.Open(path);
            return new ModelFiles(path, gguf.Config, path, gguf.Tensors, gguf);
        }
        string config = System.IO.Path.Combine(path, "config.json");
        return new ModelFiles(path, JsonFile.ReadObject(config).Json, config, ModelBundle.OpenWeights(path), null);
    }

    /// <summary>The tokenizer as GGUF says it; null where the model has none. Throws <see cref="UserErrorException"/> for one that GGUF cannot say.</summary>
    public GgufTokenizer? Tokenizer() => _gguf is not null ? _gguf.Tokenizer
        : File.Exists(System.IO.Path.Combine(Path, "tokenizer.json")) ? GgufTokenizerExport.FromFolder(Path) : null;

    /// <inheritdoc/>
    public void Dispose() => Tensors.Dispose();
}
