using System.Runtime.CompilerServices;
using System.Text.Json.Nodes;
using Repeng.Kernels;

namespace Repeng.Runtime.Formats;

/// <summary>
/// Tensors of a GGUF file under Hugging Face names. Where llama.cpp rotates neighbouring pairs and Hugging Face the two
/// halves of a head, the converter moved HF row h·(d/2) + i (h = 0, 1) of every head of q and k to row 2i + h, and this
/// source moves it back; an expert is a part of the rows of the tensor that holds all. Rows stay whole, so that also
/// quantised rows can be moved.
/// </summary>
internal sealed unsafe class GgufTensors : ITensorSource
{
    private readonly GgufFile _file;
    private readonly int _headDim;
    private readonly Dictionary<string, Entry> _entries = new(StringComparer.Ordinal);
    private readonly List<string> _names = [];

    public GgufTensors(GgufFile file, GgufFamily family, JsonObject config)
    {
        _file = file;
        long blocks = Field("block_count") ?? 0, heads = Field("attention.head_count") ?? 0, keyValueHeads = Field("attention.head_count_kv") ?? heads;
        int experts = (int)(Field("expert_count") ?? 0);
        _headDim = (int)(config["head_dim"]?.GetValue<long>() ?? 0);
        foreach (string name in file.Names)
        {
            // Used by the config (rope factors), or derived from it by old converters: no part of a checkpoint.
            if (name is GgufConfig.RopeFreqs or GgufConfig.RopeShort or GgufConfig.RopeLong || name.EndsWith(".attn_rot_embd", StringComparison.Ordinal))
                continue;
            IReadOnlyList<string> translated = family.FromGguf(name, blocks, experts)
                ?? throw FileErrors.Bad(file.Description, $"tensor {FileErrors.Quote(name)} is no part of a {family.Architecture} model of {blocks} blocks; such a model is not supported");
            TensorInfo info = file.Info(name);
            long permuted = family.PermutedHeads(name, heads, keyValueHeads);
            if (permuted > 0 && (info.Shape.Length is 0 or > 2 || info.Shape[0] != permuted * _headDim))
                throw FileErrors.Bad(file.Description, $"tensor {FileErrors.Quote(name)} has shape {info.ShapeText}, needed are {permuted * _headDim} rows: {permuted} heads of {_headDim}");
            bool stacked = name.Contains("_exps.", StringComparison.Ordinal);
            if (stacked && (info.Shape.Length < 2 || info.Shape[0] != experts))
                throw FileErrors.Bad(file.Description, $"tensor {FileErrors.Quote(name)} has shape {info.ShapeText}, its slowest dimension must be the {experts} experts");
            for (int i = 0; i < translated.Count; i++)
                Add(translated[i], name, stacked ? Part(info, experts) : info, permuted > 0, stacked ? i * (info.Rows / experts) : 0);
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
        if (!entry.Permuted)
            _file.ReadF32(entry.GgufName, entry.RowOf(firstRow, rows), rows, destination);
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
            _file.ReadRaw(entry.GgufName, entry.RowOf(firstRow, rows), rows, destination);
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
        if (entry.Permuted || !_file.TryMap(entry.GgufName, out MappedBytes all))
            return false;
        bytes = all.Part(entry.FirstRow * (entry.Info.Rows == 0 ? 0 : entry.Info.Bytes / entry.Info.Rows), entry.Info.Bytes);
        return true;
    }

    /// <inheritdoc/>
    public void Dispose() => _file.Dispose();

    /// <summary>Row of a head's rows in the file that holds a row as Hugging Face counts.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    internal static long FileRow(long row, long headDim)
    {
        long head = row / headDim, inHead = row % headDim, half = headDim / 2;
        return head * headDim + 2 * (inHead % half) + inHead / half;
    }

    /// <summary>The inverse of <see cref="FileRow"/>.</summary>
    internal static long SourceRow(long row, long headDim)
    {
        long head = row / headDim, inHead = row % headDim;
        return head * headDim + inHead % 2 * (headDim / 2) + inHead / 2;
    }

    private static TensorInfo Part(TensorInfo info, int parts) => info with { Shape = info.Shape[1..], Elements = info.Elements / parts, Bytes = info.Bytes / parts };

    private void Add(string name, string ggufName, TensorInfo info, bool permuted, long firstRow)
    {
        if (!_entries.TryAdd(name, new Entry(ggufName, info with { Name = name }, permuted, firstRow)))
            throw FileErrors.Bad(Description, $"tensor {FileErrors.Quote(ggufName)} and another both stand for {name}");
        _names.Add(name);
    }

    private Entry Find(string name) => _entries.TryGetValue(name, out Entry? entry) ? entry : throw MappedTensorSource.Missing(this, name);

    private void ForRows(TensorInfo info, long firstRow, long rows, Action<long, long> read)
    {
        if (firstRow < 0 || rows < 0 || firstRow > info.Rows - rows)
            throw new ArgumentOutOfRangeException(nameof(rows), $"rows [{firstRow}, {firstRow + rows}) of tensor {info.Name} {info.ShapeText}");
        const long RowsPerItem = 64, WorthThreads = 1 << 19;
        if (rows * info.RowLength <= WorthThreads)
        {
            for (long i = 0; i < rows; i++)
                read(FileRow(firstRow + i, _headDim), i);
            return;
        }
        Parallel.For(0, (rows + RowsPerItem - 1) / RowsPerItem, item =>
        {
            for (long i = item * RowsPerItem; i < Math.Min(rows, (item + 1) * RowsPerItem); i++)
                read(FileRow(firstRow + i, _headDim), i);
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
                Buffer.MemoryCopy(p + FileRow(i, _headDim) * elementBytes, destination + i * elementBytes, elementBytes, elementBytes);
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

    private sealed record Entry(string GgufName, TensorInfo Info, bool Permuted, long FirstRow)
    {
        public long RowOf(long row, long rows) => row >= 0 && rows >= 0 && row <= Info.Rows - rows ? FirstRow + row
            : throw new ArgumentOutOfRangeException(nameof(rows), $"rows [{row}, {row + rows}) of tensor {Info.Name} {Info.ShapeText}, which has {Info.Rows}");
    }
}
