using System.Text.Json.Nodes;
using Repeng.Kernels;
using Repeng.Runtime.Formats;

namespace Repeng.Steering.Models;

/// <summary>By which method the weights of a model folder are quantised, and whether that is read.</summary>
public static class StorageMethod
{
    private const string Field = "quantization_config", Method = "quant_method";

    // Names of tensors that stand in the place of a weight.
    private static readonly (string Ending, string Method)[] s_endings =
    [
        (".qweight", "gptq or awq"), (".weight_packed", "compressed-tensors"), (".weight_scale_inv", "fp8"), (".W_q", "hqq"),
    ];

    /// <summary>The method, in small letters: what config.json says, else what the names of tensors tell; null for plain weights.</summary>
    /// <param name="config">Fields of config.json.</param>
    /// <param name="path">Its path, for messages.</param>
    /// <param name="tensors">The tensors.</param>
    public static string? Of(JsonObject config, string path, ITensorSource tensors)
    {
        var fields = new JsonFields(config, path);
        // compressed-tensors wrote a field of its own at first.
        if (fields.OptionalObject(Field) is { } settings)
        {
            if (settings.OptionalText(Method) is { Length: > 0 } named)
                return named.ToLowerInvariant();
            if (settings.OptionalBoolean("load_in_4bit") == true || settings.OptionalBoolean("load_in_8bit") == true)
                return "bitsandbytes";
        }
        else if (fields.Has("compression_config"))
        {
            return "compressed-tensors";
        }
        return s_endings.FirstOrDefault(e => tensors.Names.Any(n => n.EndsWith(e.Ending, StringComparison.Ordinal))).Method;
    }

    /// <summary>Whether weights of a method are read.</summary>
    public static bool IsRead(string? method) => method is null or "bitsandbytes" or "mxfp4";

    /// <summary>Refuses weights that are quantised in a way that is not read, before any is.</summary>
    public static void Check(JsonObject config, string path, ITensorSource tensors)
    {
        string? method = Of(config, path, tensors);
        if (!IsRead(method))
            throw new UserErrorException($"{path}: the weights are quantised by {FileErrors.Quote(method!)} ({Field}), which is not read; read are bitsandbytes (NF4, FP4, INT8), mxfp4 of gpt-oss, and GGUF files of every type. Take the model as it was before (--quantization_type 4bit makes it small when it is loaded), or a GGUF file of it");
    }
}
