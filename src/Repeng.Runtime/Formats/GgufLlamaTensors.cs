using System.Runtime.CompilerServices;
using System.Text.Json.Nodes;
using Repeng.Kernels;

namespace Repeng.Runtime.Formats;

/// <summary>
/// Tensors of a llama GGUF under Hugging Face names. llama.cpp rotates neighbouring pairs, Hugging Face the two halves
/// of a head; so the converter moved HF row h·(d/2) + i (h = 0, 1) of every head of q and k to row 2i + h, and this
/// source moves it back. Rows stay whole, so that also quantised rows can be moved.
/// </summary>
internal sealed unsafe class GgufLlamaTensors : ITensorSource
{
    private static readonly Dictionary<string, string> s_global = new(StringComparer.Ordinal)
    {
        ["token_embd"] = "model.embed_tokens",
        ["output_norm"] = "model.norm",
        ["output"] = "lm_head",
    };

    private static readonly Dictionary<string, string> s_block = new(StringComparer.Ordinal)
    {
        ["attn_norm"] = "input_layernorm",
        ["attn_q"] = "self_attn.q_proj",
        ["attn_k"] = "self_attn.k_proj",
        ["attn_v"] = "self_attn.v_proj",
        ["attn_output"] = "self_attn.o_proj",
        ["ffn_norm"] = "post_attention_layernorm",
        ["ffn_gate"] = "mlp.gate_proj",
        ["ffn_up"] = "mlp.up_proj",
        ["ffn_down"] = "mlp.down_proj",
    };

    // Used by the config (rope factors), or derived from it by old converters: no part of a Hugging Face checkpoint.
    private static readonly string[] s_aside = ["rope_freqs.weight", "rope_factors_short.weight", "rope_factors_long.weight"];

    private readonly GgufFile _file;
    private readonly int _headDim;
    private readonly Dictionary<string, Entry> _entries = new(StringComparer.Ordinal);
    private readonly List<string> _names = [];

    public GgufLlamaTensors(GgufFile file, JsonObject config)
    {
        _file = file;
        _headDim = (int)config["head_dim"]!.GetValue<long>();
        long layers = config["num_hidden_layers"]!.GetValue<long>();
        long heads = config["num_attention_heads"]!.GetValue<long>(), keyValueHeads = config["num_key_value_heads"]!.GetValue<long>();
        foreach (string name in file.Names)
        {
            if (s_aside.Contains(name) || name.EndsWith(".attn_rot_embd", StringComparison.Ordinal))
                continue;
            string translated = Translate(name, layers) ?? throw FileErrors.Bad(file.Description, $"tensor {FileErrors.Quote(name)} is no part of a llama model of {layers} blocks; such a model is not supported");
            TensorInfo info = file.Info(name);
            long permutedHeads = name.Contains(".attn_q.", StringComparison.Ordinal) ? heads : name.Contains(".attn_k.", StringComparison.Ordinal) ? keyValueHeads : 0;
            if (permutedHeads > 0 && (info.Shape.Length is 0 or > 2 || info.Shape[0] != permutedHeads * _headDim))
                throw FileErrors.Bad(file.Description, $"tensor {FileErrors.Quote(name)} has shape {info.ShapeText}, needed are {permutedHeads * _headDim} rows: {permutedHeads} heads of {_headDim}");
            _entries.Add(translated, new Entry(name, info with { Name = translated }, permutedHeads > 0));
            _names.Add(translated);
        }
        RequireUniformBiases(layers, "self_attn", ["q_proj", "k_proj", "v_proj", "o_proj"]);
        RequireUniformBiases(layers, "mlp", ["gate_proj", "up_proj", "down_proj"]);
    }

    /// <inheritdoc/>
    public string Description => _file.Description;

    /// <inheritdoc/>
    public IReadOnlyList<string> Names => _names;

    /// <inheritdoc/>
    public bool TryGetInfo(string name, out TensorInfo info)
    {
        bool found = _entries.TryGetValue(name, out Entry? entry);
        info = found ? entry!.Info : default;
        return found;
    }

    /// <inheritdoc/>
    public void ReadF32(string name, long firstRow, long rows, float* destination)
    {
        Entry entry = Find(name);
        if (!entry.Permuted)
            _file.ReadF32(entry.GgufName, firstRow, rows, destination);
        else if (entry.Info.Shape.Length == 1)
            ReadVector(entry, firstRow, rows, sizeof(float), (byte*)destination, (row, count, to) => _file.ReadF32(entry.GgufName, row, count, (float*)to));
        else
            ForRows(entry.Info, firstRow, rows, (row, index) => _file.ReadF32(entry.GgufName, row, 1, destination + index * entry.Info.RowLength));
    }

    /// <inheritdoc/>
    public void ReadRaw(string name, long firstRow, long rows, byte* destination)
    {
        Entry entry = Find(name);
        if (!entry.Permuted)
        {
            _file.ReadRaw(entry.GgufName, firstRow, rows, destination);
            return;
        }
        if (entry.Info.Shape.Length == 1)
        {
            ReadVector(entry, firstRow, rows, (int)(entry.Info.Bytes / entry.Info.Elements), destination, (row, count, to) => _file.ReadRaw(entry.GgufName, row, count, to));
            return;
        }
        long rowBytes = entry.Info.Bytes / entry.Info.Rows;
        ForRows(entry.Info, firstRow, rows, (row, index) => _file.ReadRaw(entry.GgufName, row, 1, destination + index * rowBytes));
    }

    /// <inheritdoc/>
    public bool TryMap(string name, out MappedBytes bytes)
    {
        Entry entry = Find(name);
        bytes = default;
        return !entry.Permuted && _file.TryMap(entry.GgufName, out bytes);
    }

    /// <inheritdoc/>
    public void Dispose() => _file.Dispose();

    /// <summary>The Hugging Face name of a GGUF tensor; null where a llama model has no such tensor.</summary>
    internal static string? Translate(string name, long layers)
    {
        int dot = name.LastIndexOf('.');
        if (dot < 0 || name[(dot + 1)..] is not ("weight" or "bias"))
            return null;
        string stem = name[..dot], suffix = name[dot..];
        if (s_global.TryGetValue(stem, out string? global))
            return suffix == ".weight" ? global + suffix : null;
        string[] parts = stem.Split('.');
        if (parts.Length != 3 || parts[0] != "blk" || !s_block.TryGetValue(parts[2], out string? inBlock)
            || !long.TryParse(parts[1], System.Globalization.NumberStyles.None, null, out long block) || block >= layers || block.ToString() != parts[1])
            return null;
        return suffix == ".bias" && parts[2].EndsWith("_norm", StringComparison.Ordinal) ? null : $"model.layers.{block}.{inBlock}{suffix}";
    }

    private Entry Find(string name) => _entries.TryGetValue(name, out Entry? entry) ? entry : throw MappedTensorSource.Missing(this, name);

    /// <summary>Row of the file that holds a row as Hugging Face counts.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private long FileRow(long row)
    {
        long head = row / _headDim, inHead = row % _headDim, half = _headDim / 2;
        return head * _headDim + 2 * (inHead % half) + inHead / half;
    }

    private void ForRows(TensorInfo info, long firstRow, long rows, Action<long, long> read)
    {
        if (firstRow < 0 || rows < 0 || firstRow > info.Rows - rows)
            throw new ArgumentOutOfRangeException(nameof(rows), $"rows [{firstRow}, {firstRow + rows}) of tensor {info.Name} {info.ShapeText}");
        const long RowsPerItem = 64, WorthThreads = 1 << 19;
        if (rows * info.RowLength <= WorthThreads)
        {
            for (long i = 0; i < rows; i++)
                read(FileRow(firstRow + i), i);
            return;
        }
        Parallel.For(0, (rows + RowsPerItem - 1) / RowsPerItem, item =>
        {
            for (long i = item * RowsPerItem; i < Math.Min(rows, (item + 1) * RowsPerItem); i++)
                read(FileRow(firstRow + i), i);
        });
    }

    private delegate void ReadRows(long firstRow, long rows, byte* destination);

    /// <summary>A bias: one row whose elements are moved as the rows of its matrix are.</summary>
    private void ReadVector(Entry entry, long firstRow, long rows, int elementBytes, byte* destination, ReadRows read)
    {
        if (rows == 0)
            return;
        var values = new byte[entry.Info.Elements * elementBytes];
        fixed (byte* p = values)
        {
            read(firstRow, rows, p);
            for (long i = 0; i < entry.Info.Elements; i++)
                Buffer.MemoryCopy(p + FileRow(i) * elementBytes, destination + i * elementBytes, elementBytes, elementBytes);
        }
    }

    /// <summary>attention_bias and mlp_bias of a config speak for all projections of all blocks; a file with some of them cannot be told so.</summary>
    private void RequireUniformBiases(long layers, string part, string[] projections)
    {
        int found = 0;
        string? absent = null;
        for (long layer = 0; layer < layers; layer++)
            foreach (string projection in projections)
                if (_entries.ContainsKey($"model.layers.{layer}.{part}.{projection}.bias"))
                    found++;
                else
                    absent ??= $"blk.{layer} {projection}";
        if (found > 0 && absent is not null)
            throw FileErrors.Bad(Description, $"{found} projections of {part} have a bias, {absent} has none; llama models have a bias on all or none of them");
    }

    private sealed record Entry(string GgufName, TensorInfo Info, bool Permuted);
}
