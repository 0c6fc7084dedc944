using System.Text.Json.Nodes;
using Repeng.Kernels;

namespace Repeng.Runtime.Formats;

/// <summary>
/// Tensors of a GGUF file under Hugging Face names. Where the converter moved rows (<see cref="GgufRows"/>) this
/// source moves them back; an expert is a part of the rows of the tensor that holds all. Rows stay whole, so that also
/// quantised rows can be moved.
/// </summary>
internal sealed unsafe class GgufTensors : ITensorSource
{
    private readonly GgufFile _file;
    private readonly Dictionary<string, Entry> _entries = new(StringComparer.Ordinal);
    private readonly List<string> _names = [];

    public GgufTensors(GgufFile file, GgufFamily family, JsonObject config)
    {
        _file = file;
        long blocks = Field("block_count") ?? 0, heads = Field("attention.head_count") ?? 0, keyValueHeads = Field("attention.head_count_kv") ?? heads;
        int experts = (int)(Field("expert_count") ?? 0);
        long headDim = config["head_dim"]?.GetValue<long>() ?? 0;
        foreach (string name in file.Names)
        {
            // Used by the config (rope factors), or derived from it by old converters: no part of a checkpoint.
            if (name is GgufConfig.RopeFreqs or GgufConfig.RopeShort or GgufConfig.RopeLong || name.EndsWith(".attn_rot_embd", StringComparison.Ordinal))
                continue;
            IReadOnlyList<string> translated = family.FromGguf(name, blocks, experts)
                ?? throw FileErrors.Bad(file.Description, $"tensor {FileErrors.Quote(name)} is no part of a {family.Architecture} model of {blocks} blocks; such a model is not supported");
            TensorInfo info = file.Info(name);
            // Old converters dropped the dimension of one output.
            if (name.EndsWith(".ffn_gate_inp_shexp.weight", StringComparison.Ordinal) && info.Shape.Length == 1)
                info = info with { Shape = [1, info.Shape[0]] };
            GgufRows? order = family.RowsOf(name, heads, keyValueHeads, headDim);
            if (order is { } o && (info.Shape.Length is 0 or > 2 || info.Shape[0] != o.Count))
                throw FileErrors.Bad(file.Description, $"tensor {FileErrors.Quote(name)} has shape {info.ShapeText}, needed are {o.Text}");
            bool stacked = name.Contains("_exps.", StringComparison.Ordinal);
            if (stacked && (info.Shape.Length < 2 || info.Shape[0] != experts))
                throw FileErrors.Bad(file.Description, $"tensor {FileErrors.Quote(name)} has shape {info.ShapeText}, its slowest dimension must be the {experts} experts");
            for (int i = 0; i < translated.Count; i++)
                Add(translated[i], name, stacked ? Part(info, experts) : info, order, stacked ? i * (info.Rows / experts) : 0);
        }
        foreach (GgufBiases biases in family.Biases)
            RequireUniform(family, biases, blocks);

        long? Field(string gguf) => family.Fields.FirstOrDefault(f => f.Gguf == gguf) is { } field ? config[field.Config]?.GetValue<long>() : null;
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
        if (entry.Order is not { } order)
            _file.ReadF32(entry.GgufName, entry.RowOf(firstRow, rows), rows, destination);
        else if (entry.Info.Shape.Length == 1)
            ReadVector(entry, order, firstRow, rows, sizeof(float), (byte*)destination, (row, count, to) => _file.ReadF32(entry.GgufName, row, count, (float*)to));
        else
            ForRows(entry.Info, order, firstRow, rows, (row, index) => _file.ReadF32(entry.GgufName, row, 1, destination + index * entry.Info.RowLength));
    }

    /// <inheritdoc/>
    public void ReadRaw(string name, long firstRow, long rows, byte* destination)
    {
        Entry entry = Find(name);
        if (entry.Order is not { } order)
        {
            _file.ReadRaw(entry.GgufName, entry.RowOf(firstRow, rows), rows, destination);
            return;
        }
        if (entry.Info.Shape.Length == 1)
        {
            ReadVector(entry, order, firstRow, rows, (int)(entry.Info.Bytes / entry.Info.Elements), destination, (row, count, to) => _file.ReadRaw(entry.GgufName, row, count, to));
            return;
        }
        long rowBytes = entry.Info.Bytes / entry.Info.Rows;
        ForRows(entry.Info, order, firstRow, rows, (row, index) => _file.ReadRaw(entry.GgufName, row, 1, destination + index * rowBytes));
    }

    /// <inheritdoc/>
    public bool TryMap(string name, out MappedBytes bytes)
    {
        Entry entry = Find(name);
        bytes = default;
        if (entry.Order is not null || !_file.TryMap(entry.GgufName, out MappedBytes all))
            return false;
        bytes = all.Part(entry.FirstRow * (entry.Info.Rows == 0 ? 0 : entry.Info.Bytes / entry.Info.Rows), entry.Info.Bytes);
        return true;
    }

    /// <inheritdoc/>
    public void Dispose() => _file.Dispose();

    private static TensorInfo Part(TensorInfo info, int parts) => info with { Shape = info.Shape[1..], Elements = info.Elements / parts, Bytes = info.Bytes / parts };

    private void Add(string name, string ggufName, TensorInfo info, GgufRows? order, long firstRow)
    {
        if (!_entries.TryAdd(name, new Entry(ggufName, info with { Name = name }, order, firstRow)))
            throw FileErrors.Bad(Description, $"tensor {FileErrors.Quote(ggufName)} and another both stand for {name}");
        _names.Add(name);
    }

    private Entry Find(string name) => _entries.TryGetValue(name, out Entry? entry) ? entry : throw MappedTensorSource.Missing(this, name);

    private static void ForRows(TensorInfo info, GgufRows order, long firstRow, long rows, Action<long, long> read)
    {
        if (firstRow < 0 || rows < 0 || firstRow > info.Rows - rows)
            throw new ArgumentOutOfRangeException(nameof(rows), $"rows [{firstRow}, {firstRow + rows}) of tensor {info.Name} {info.ShapeText}");
        const long RowsPerItem = 64, WorthThreads = 1 << 19;
        if (rows * info.RowLength <= WorthThreads)
        {
            for (long i = 0; i < rows; i++)
                read(order.InFile(firstRow + i), i);
            return;
        }
        Parallel.For(0, (rows + RowsPerItem - 1) / RowsPerItem, item =>
        {
            for (long i = item * RowsPerItem; i < Math.Min(rows, (item + 1) * RowsPerItem); i++)
                read(order.InFile(firstRow + i), i);
        });
    }

    private delegate void ReadRows(long firstRow, long rows, byte* destination);

    /// <summary>A bias: one row whose elements are moved as the rows of its matrix are.</summary>
    private static void ReadVector(Entry entry, GgufRows order, long firstRow, long rows, int elementBytes, byte* destination, ReadRows read)
    {
        if (rows == 0)
            return;
        var values = new byte[entry.Info.Elements * elementBytes];
        fixed (byte* p = values)
        {
            read(firstRow, rows, p);
            for (long i = 0; i < entry.Info.Elements; i++)
                Buffer.MemoryCopy(p + order.InFile(i) * elementBytes, destination + i * elementBytes, elementBytes, elementBytes);
        }
    }

    /// <summary>attention_bias and mlp_bias of a config speak for all projections of all blocks; a file with some of them cannot be told so.</summary>
    private void RequireUniform(GgufFamily family, GgufBiases biases, long blocks)
    {
        int found = 0;
        string? absent = null;
        for (long block = 0; block < blocks; block++)
            foreach (string projection in biases.Projections)
                if (_entries.ContainsKey($"{family.Blocks}.{block}.{biases.Module}.{projection}.bias"))
                    found++;
                else
                    absent ??= $"blk.{block} {projection}";
        if (found > 0 && absent is not null)
            throw FileErrors.Bad(Description, $"{found} projections of {biases.Module} have a bias, {absent} has none; {family.Architecture} models have a bias on all or none of them");
    }

    private sealed record Entry(string GgufName, TensorInfo Info, GgufRows? Order, long FirstRow)
    {
        public long RowOf(long row, long rows) => row >= 0 && rows >= 0 && row <= Info.Rows - rows ? FirstRow + row
            : throw new ArgumentOutOfRangeException(nameof(rows), $"rows [{row}, {row + rows}) of tensor {Info.Name} {Info.ShapeText}, which has {Info.Rows}");
    }
}
