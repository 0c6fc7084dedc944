using Repeng.Kernels;

namespace Repeng.Runtime.Formats;

/// <summary>Tensors that lie contiguously in a mapped file, or in the further parts of a split one: what safetensors and GGUF have in common.</summary>
public abstract unsafe class MappedTensorSource : ITensorSource
{
    private readonly Dictionary<string, Entry> _entries = new(StringComparer.Ordinal);
    private readonly List<string> _names = [];
    private readonly List<MappedFile> _parts = [];

    private protected MappedTensorSource(MappedFile file) => File = file;

    /// <inheritdoc/>
    public string Description => File.Path;

    /// <inheritdoc/>
    public IReadOnlyList<string> Names => _names;

    private protected MappedFile File { get; }

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
        if (!entry.Type.CanReadF32)
            throw FileErrors.Bad(Description, $"tensor {FileErrors.Quote(name)} is stored as {entry.Type.Name}, which cannot be converted to fp32; types that can: {StorageType.ReadableNames}");
        (long offset, long bytes) = Locate(entry, firstRow, rows);
        Decode.Run(entry.Type, entry.File.At(offset, bytes), destination, rows * entry.Info.RowLength);
    }

    /// <inheritdoc/>
    public void ReadRaw(string name, long firstRow, long rows, byte* destination)
    {
        Entry entry = Find(name);
        (long offset, long bytes) = Locate(entry, firstRow, rows);
        Buffer.MemoryCopy(entry.File.At(offset, bytes), destination, bytes, bytes);
    }

    /// <inheritdoc/>
    public bool TryMap(string name, out MappedBytes bytes)
    {
        Entry entry = Find(name);
        bytes = new MappedBytes(entry.File, entry.File.At(entry.Offset, entry.Info.Bytes), entry.Info.Bytes);
        return true;
    }

    /// <inheritdoc/>
    public void Dispose()
    {
        File.Dispose();
        _parts.ForEach(p => p.Dispose());
        GC.SuppressFinalize(this);
    }

    /// <summary>Adds a tensor whose place in the file the reader has checked; false where the name is there already.</summary>
    private protected bool TryAdd(TensorInfo info, StorageType type, long offset)
    {
        if (!_entries.TryAdd(info.Name, new Entry(info, type, offset, File)))
            return false;
        _names.Add(info.Name);
        return true;
    }

    /// <summary>Takes over another source with all of its tensors, which count as this one's from now on; gives the name of a tensor that both have, or null.</summary>
    private protected string? Adopt(MappedTensorSource other)
    {
        _parts.Add(other.File);
        foreach (string name in other._names)
        {
            if (!_entries.TryAdd(name, other._entries[name]))
                return name;
            _names.Add(name);
        }
        return null;
    }

    private Entry Find(string name) => _entries.TryGetValue(name, out Entry? entry) ? entry : throw Missing(this, name);

    private (long Offset, long Bytes) Locate(Entry entry, long firstRow, long rows)
    {
        TensorInfo info = entry.Info;
        if (firstRow < 0 || rows < 0 || firstRow > info.Rows - rows)
            throw new ArgumentOutOfRangeException(nameof(rows), $"rows [{firstRow}, {firstRow + rows}) of tensor {info.Name} {info.ShapeText}, which has {info.Rows}");
        if (!entry.Type.TryBytes(firstRow * info.RowLength, out long start) || !entry.Type.TryBytes(rows * info.RowLength, out long bytes))
            throw new ArgumentOutOfRangeException(nameof(rows), $"rows of {info.RowLength} {info.Type} of tensor {info.Name} do not start on whole bytes; read the tensor as a whole");
        return (entry.Offset + start, bytes);
    }

    /// <summary>The error for a tensor that a source does not hold, with the nearest names.</summary>
    internal static UserErrorException Missing(ITensorSource source, string name)
    {
        IReadOnlyList<string> nearest = FileErrors.Nearest(name, source.Names);
        string hint = nearest.Count == 0 ? "it holds no tensors" : $"of its {source.Names.Count} tensors the nearest are {string.Join(", ", nearest)}";
        return FileErrors.Bad(source.Description, $"tensor {FileErrors.Quote(name)} is missing; {hint}");
    }

    private sealed record Entry(TensorInfo Info, StorageType Type, long Offset, MappedFile File);
}
