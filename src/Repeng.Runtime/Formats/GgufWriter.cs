using System.Runtime.InteropServices;
using System.Text;
using Repeng.Kernels;

namespace Repeng.Runtime.Formats;

/// <summary>
/// Writes GGUF version 3 with the layout of the reference package: metadata and tensors in the order of adding, data
/// of every tensor padded to the alignment. Tensor values are not copied: they must stay as they are until <see cref="Write"/>.
/// </summary>
public sealed class GgufWriter
{
    private readonly MemoryStream _metadata = new();
    private readonly HashSet<string> _keys = new(StringComparer.Ordinal);
    private readonly List<Item> _tensors = [];
    private readonly HashSet<string> _names = new(StringComparer.Ordinal);
    private readonly uint _alignment;
    private ulong _count;

    /// <summary>Starts a file of an architecture, such as controlvector.</summary>
    /// <param name="architecture">Value of general.architecture; null writes no such key.</param>
    /// <param name="alignment">Power of two; stored as general.alignment where it is not the default of 32.</param>
    public GgufWriter(string? architecture, uint alignment = GgufFile.DefaultAlignment)
    {
        if (!System.Numerics.BitOperations.IsPow2(alignment))
            throw new ArgumentOutOfRangeException(nameof(alignment), alignment, "must be a power of two");
        _alignment = alignment;
        if (architecture is not null)
            Add(GgufFile.ArchitectureKey, architecture);
        if (alignment != GgufFile.DefaultAlignment)
            Add(GgufFile.AlignmentKey, alignment);
    }

    /// <summary>Adds a text.</summary>
    public GgufWriter Add(string key, string value)
    {
        Start(key, GgufValueType.String);
        WriteText(value);
        return this;
    }

    /// <summary>Adds an unsigned 32-bit integer.</summary>
    public GgufWriter Add(string key, uint value) => AddScalar(key, GgufValueType.UInt32, value);

    /// <summary>Adds a signed 32-bit integer.</summary>
    public GgufWriter Add(string key, int value) => AddScalar(key, GgufValueType.Int32, value);

    /// <summary>Adds an unsigned 64-bit integer.</summary>
    public GgufWriter Add(string key, ulong value) => AddScalar(key, GgufValueType.UInt64, value);

    /// <summary>Adds a signed 64-bit integer.</summary>
    public GgufWriter Add(string key, long value) => AddScalar(key, GgufValueType.Int64, value);

    /// <summary>Adds an fp32 number.</summary>
    public GgufWriter Add(string key, float value) => AddScalar(key, GgufValueType.Float32, value);

    /// <summary>Adds an fp64 number.</summary>
    public GgufWriter Add(string key, double value) => AddScalar(key, GgufValueType.Float64, value);

    /// <summary>Adds true or false.</summary>
    public GgufWriter Add(string key, bool value) => AddScalar(key, GgufValueType.Bool, value ? (byte)1 : (byte)0);

    /// <summary>Adds an array of texts.</summary>
    public GgufWriter Add(string key, IReadOnlyCollection<string> values)
    {
        StartArray(key, GgufValueType.String, values.Count);
        foreach (string value in values)
            WriteText(value);
        return this;
    }

    /// <summary>Adds an array of signed 32-bit integers.</summary>
    public GgufWriter Add(string key, ReadOnlySpan<int> values) => AddArray(key, GgufValueType.Int32, values);

    /// <summary>Adds an array of true and false.</summary>
    public GgufWriter Add(string key, ReadOnlySpan<bool> values)
    {
        StartArray(key, GgufValueType.Bool, values.Length);
        foreach (bool value in values)
            _metadata.WriteByte(value ? (byte)1 : (byte)0);
        return this;
    }

    /// <summary>Adds an array of fp32 numbers.</summary>
    public GgufWriter Add(string key, ReadOnlySpan<float> values) => AddArray(key, GgufValueType.Float32, values);

    /// <summary>Adds an array of bytes.</summary>
    public GgufWriter AddBytes(string key, ReadOnlySpan<byte> values) => AddArray(key, GgufValueType.UInt8, values);

    /// <summary>Adds a metadata entry of another file as it stands there.</summary>
    public GgufWriter Copy(GgufMetadata from, string key)
    {
        GgufValue value = from.Encoded(key, out ReadOnlySpan<byte> bytes);
        if (value.IsArray)
            StartArray(key, value.Type, value.Count);
        else
            Start(key, value.Type);
        _metadata.Write(bytes);
        return this;
    }

    /// <summary>Adds an fp32 tensor, shape slowest dimension first (the file stores it the other way round).</summary>
    public GgufWriter AddTensor(string name, ReadOnlySpan<long> shape, ReadOnlyMemory<float> values) =>
        AddTensor(name, "F32", shape, (long)values.Length * 4, stream => SafetensorsWriter.WriteValues(stream, values.Span));

    /// <summary>Adds a tensor as fp16, rounded to the nearest, ties to even; a value beyond ±65504 is an error.</summary>
    public GgufWriter AddHalfTensor(string name, ReadOnlySpan<long> shape, ReadOnlySpan<float> values)
    {
        var halves = new Half[values.Length];
        for (int i = 0; i < halves.Length; i++)
        {
            halves[i] = (Half)values[i];
            if (Half.IsInfinity(halves[i]) && float.IsFinite(values[i]))
                throw new UserErrorException($"tensor {name}: value {values[i]:R} at {i} is too large for fp16; store it as fp32");
        }
        return AddTensor(name, "F16", shape, halves.LongLength * 2, stream => SafetensorsWriter.WriteValues<Half>(stream, halves));
    }

    /// <summary>Adds a tensor of any ggml type from its stored bytes.</summary>
    public GgufWriter AddRawTensor(string name, string type, ReadOnlySpan<long> shape, ReadOnlyMemory<byte> bytes) =>
        AddTensor(name, type, shape, bytes.Length, stream => stream.Write(bytes.Span));

    /// <summary>Adds a tensor whose stored bytes are made while the file is written; write puts out exactly that many.</summary>
    public GgufWriter AddStreamedTensor(string name, string type, ReadOnlySpan<long> shape, long bytes, Action<Stream> write) => AddTensor(name, type, shape, bytes, write);

    /// <summary>Writes the file at once or not at all (<see cref="AtomicFile"/>); <see cref="UserErrorException"/> where the disk refuses.</summary>
    public void Write(string path, bool overwrite = true)
    {
        var head = new MemoryStream();
        head.Write("GGUF"u8);
        WriteNumber(head, 3u);
        WriteNumber(head, (ulong)_tensors.Count);
        WriteNumber(head, _count);
        _metadata.WriteTo(head);
        long offset = 0;
        foreach (Item item in _tensors)
        {
            WriteText(head, item.Name);
            WriteNumber(head, (uint)item.Shape.Length);
            for (int i = item.Shape.Length - 1; i >= 0; i--)
                WriteNumber(head, (ulong)item.Shape[i]);
            WriteNumber(head, item.TypeId);
            WriteNumber(head, (ulong)offset);
            offset += Padded(item.Bytes);
        }
        AtomicFile.Write(path, stream =>
        {
            head.WriteTo(stream);
            Pad(stream, head.Length);
            foreach (Item item in _tensors)
            {
                item.Write(stream);
                Pad(stream, item.Bytes);
            }
        }, overwrite, Padded(head.Length) + offset);
    }

    private GgufWriter AddTensor(string name, string type, ReadOnlySpan<long> shape, long bytes, Action<Stream> write)
    {
        StorageType storage = StorageType.Find(type) is { GgmlId: not null } known ? known : throw new ArgumentException($"tensor {name}: {type} is no ggml type", nameof(type));
        string text = $"[{string.Join(", ", shape.ToArray())}]";
        long elements = 1;
        foreach (long size in shape)
            elements = size > 0 ? checked(elements * size) : throw new ArgumentException($"tensor {name}: shape {text}, GGUF has no empty tensors", nameof(shape));
        if (shape.Length > GgufFile.MaxDimensions)
            throw new ArgumentException($"tensor {name}: shape {text}, at most {GgufFile.MaxDimensions} dimensions are allowed", nameof(shape));
        if ((shape.Length == 0 ? 1 : shape[^1]) % storage.BlockElements != 0)
            throw new ArgumentException($"tensor {name}: rows of shape {text} are no multiple of {type}'s block of {storage.BlockElements}", nameof(shape));
        if (!storage.TryBytes(elements, out long needed) || needed != bytes)
            throw new ArgumentException($"tensor {name} {text} of {type} needs {needed} bytes, {bytes} are given", nameof(bytes));
        CheckName(name);
        if (!_names.Add(name))
            throw new ArgumentException($"tensor {name} was added before", nameof(name));
        _tensors.Add(new Item(name, storage.GgmlId!.Value, shape.ToArray(), bytes, write));
        return this;
    }

    private GgufWriter AddScalar<T>(string key, GgufValueType type, T value) where T : unmanaged
    {
        Start(key, type);
        WriteNumber(_metadata, value);
        return this;
    }

    private GgufWriter AddArray<T>(string key, GgufValueType type, ReadOnlySpan<T> values) where T : unmanaged
    {
        StartArray(key, type, values.Length);
        _metadata.Write(MemoryMarshal.AsBytes(values));
        return this;
    }

    private void StartArray(string key, GgufValueType elementType, long count)
    {
        Start(key, GgufValueType.Array);
        WriteNumber(_metadata, (uint)elementType);
        WriteNumber(_metadata, (ulong)count);
    }

    private void Start(string key, GgufValueType type)
    {
        CheckName(key);
        if (!_keys.Add(key))
            throw new ArgumentException($"metadata {key} was added before", nameof(key));
        _count++;
        WriteText(key);
        WriteNumber(_metadata, (uint)type);
    }

    private static void CheckName(string name)
    {
        if (name.Length == 0 || Encoding.UTF8.GetByteCount(name) > GgufFile.MaxKeyBytes || name.Contains('\0'))
            throw new ArgumentException($"{FileErrors.Quote(name)} is no name for GGUF: it must have from 1 to {GgufFile.MaxKeyBytes} bytes and no NUL", nameof(name));
    }

    private void WriteText(string text) => WriteText(_metadata, text);

    private static void WriteText(Stream stream, string text)
    {
        byte[] utf8 = Encoding.UTF8.GetBytes(text);
        WriteNumber(stream, (ulong)utf8.Length);
        stream.Write(utf8);
    }

    private static void WriteNumber<T>(Stream stream, T value) where T : unmanaged =>
        stream.Write(MemoryMarshal.AsBytes(new ReadOnlySpan<T>(in value)));

    private long Padded(long bytes) => (bytes + _alignment - 1) / _alignment * _alignment;

    private void Pad(Stream stream, long bytes)
    {
        for (long i = bytes; i < Padded(bytes); i++)
            stream.WriteByte(0);
    }

    private sealed record Item(string Name, uint TypeId, long[] Shape, long Bytes, Action<Stream> Write);
}
