using System.Buffers;
using System.Buffers.Binary;
using System.Runtime.InteropServices;
using System.Text;
using System.Text.Encodings.Web;
using System.Text.Json;
using Repeng.Kernels;

namespace Repeng.Runtime.Formats;

/// <summary>
/// Collects tensors and writes them as one safetensors file. The order is that of the reference library (widest type
/// first, then by name) whatever the order of adding, so that equal content gives equal bytes; the header is padded
/// with blanks to a multiple of 8. Values are not copied: they must stay as they are until <see cref="Write"/>.
/// </summary>
public sealed class SafetensorsWriter
{
    private readonly Dictionary<string, Item> _items = new(StringComparer.Ordinal);
    private readonly SortedDictionary<string, string> _metadata = new(StringComparer.Ordinal);

    /// <summary>Number of tensors added.</summary>
    public int Count => _items.Count;

    /// <summary>Sets a free text under __metadata__, such as format = pt.</summary>
    public SafetensorsWriter SetMetadata(string key, string value)
    {
        _metadata[key] = value;
        return this;
    }

    /// <summary>Adds fp32 values, shape slowest dimension first.</summary>
    public SafetensorsWriter Add(string name, ReadOnlySpan<long> shape, ReadOnlyMemory<float> values) => AddValues(name, "F32", shape, values);

    /// <summary>Adds fp64 values.</summary>
    public SafetensorsWriter Add(string name, ReadOnlySpan<long> shape, ReadOnlyMemory<double> values) => AddValues(name, "F64", shape, values);

    /// <summary>Adds int64 values.</summary>
    public SafetensorsWriter Add(string name, ReadOnlySpan<long> shape, ReadOnlyMemory<long> values) => AddValues(name, "I64", shape, values);

    /// <summary>Adds int32 values.</summary>
    public SafetensorsWriter Add(string name, ReadOnlySpan<long> shape, ReadOnlyMemory<int> values) => AddValues(name, "I32", shape, values);

    /// <summary>Adds bytes of any safetensors type by name, such as BF16 or U8.</summary>
    public SafetensorsWriter AddRaw(string name, string type, ReadOnlySpan<long> shape, ReadOnlyMemory<byte> bytes) => AddValues(name, type, shape, bytes);

    /// <summary>Adds a tensor whose bytes are produced only while the file is written: for tensors too large to hold twice.</summary>
    public SafetensorsWriter AddStreamed(string name, string type, ReadOnlySpan<long> shape, Action<Stream> write)
    {
        StorageType storage = StorageType.FindSafetensors(type) ?? throw new ArgumentException($"tensor {name}: {type} is no safetensors type", nameof(type));
        Int128 elements = 1;
        foreach (long size in shape)
            elements = size >= 0 && elements <= long.MaxValue ? elements * size : throw new ArgumentException($"tensor {name}: bad shape [{string.Join(", ", shape.ToArray())}]", nameof(shape));
        if (elements > long.MaxValue || !storage.TryBytes((long)elements, out long bytes))
            throw new ArgumentException($"tensor {name}: bad shape [{string.Join(", ", shape.ToArray())}] for {type}", nameof(shape));
        if (name == "__metadata__" || !_items.TryAdd(name, new Item(name, type, shape.ToArray(), bytes, write)))
            throw new ArgumentException($"tensor {name} was added before, or its name is reserved", nameof(name));
        return this;
    }

    /// <summary>Writes the file at once or not at all (<see cref="AtomicFile"/>); <see cref="UserErrorException"/> where the disk refuses.</summary>
    public void Write(string path, bool overwrite = true)
    {
        Item[] items = Ordered();
        byte[] header = Header(items);
        AtomicFile.Write(path, stream =>
        {
            Span<byte> length = stackalloc byte[8];
            BinaryPrimitives.WriteInt64LittleEndian(length, header.Length);
            stream.Write(length);
            stream.Write(header);
            long end = stream.Position;
            foreach (Item item in items)
            {
                item.Write(stream);
                end += item.Bytes;
                if (stream.Position != end)
                    throw new InvalidOperationException($"tensor {item.Name}: {stream.Position - end + item.Bytes} bytes were written, {item.Bytes} announced");
            }
        }, overwrite, 8 + header.Length + items.Sum(i => i.Bytes));
    }

    private SafetensorsWriter AddValues<T>(string name, string type, ReadOnlySpan<long> shape, ReadOnlyMemory<T> values) where T : unmanaged
    {
        AddStreamed(name, type, shape, stream => WriteValues(stream, values.Span));
        long bytes = (long)values.Length * System.Runtime.CompilerServices.Unsafe.SizeOf<T>();
        if (_items[name].Bytes == bytes)
            return this;
        long needed = _items[name].Bytes;
        _items.Remove(name);
        throw new ArgumentException($"tensor {name} [{string.Join(", ", shape.ToArray())}] of {type} needs {needed} bytes, {bytes} are given", nameof(values));
    }

    /// <summary>Writes fp32 values to a stream, as the bytes of a tensor given by <see cref="AddStreamed"/>.</summary>
    public static void WriteFloats(Stream stream, ReadOnlySpan<float> values) => WriteValues(stream, values);

    internal static void WriteValues<T>(Stream stream, ReadOnlySpan<T> values) where T : unmanaged
    {
        // A span of bytes ends at 2³¹−1; so large arrays go in pieces.
        const int Piece = 1 << 24;
        for (int i = 0; i < values.Length; i += Piece)
            stream.Write(MemoryMarshal.AsBytes(values.Slice(i, Math.Min(Piece, values.Length - i))));
    }

    private Item[] Ordered()
    {
        var items = new List<(byte[] Key, Item Item)>(_items.Values.Select(i => (Encoding.UTF8.GetBytes(i.Name), i)));
        items.Sort((a, b) =>
        {
            int byType = StorageType.SafetensorsOrder(b.Item.Type).CompareTo(StorageType.SafetensorsOrder(a.Item.Type));
            return byType != 0 ? byType : a.Key.AsSpan().SequenceCompareTo(b.Key);
        });
        return [.. items.Select(i => i.Item)];
    }

    private byte[] Header(Item[] items)
    {
        var buffer = new ArrayBufferWriter<byte>();
        using (var json = new Utf8JsonWriter(buffer, new JsonWriterOptions { Encoder = JavaScriptEncoder.UnsafeRelaxedJsonEscaping }))
        {
            json.WriteStartObject();
            if (_metadata.Count > 0)
            {
                json.WriteStartObject("__metadata__");
                foreach ((string key, string value) in _metadata)
                    json.WriteString(key, value);
                json.WriteEndObject();
            }
            long at = 0;
            foreach (Item item in items)
            {
                json.WriteStartObject(item.Name);
                json.WriteString("dtype", item.Type);
                WriteArray(json, "shape", item.Shape);
                WriteArray(json, "data_offsets", [at, at + item.Bytes]);
                json.WriteEndObject();
                at += item.Bytes;
            }
            json.WriteEndObject();
        }
        int padded = (buffer.WrittenCount + 7) & ~7;
        var header = new byte[padded];
        header.AsSpan().Fill((byte)' ');
        buffer.WrittenSpan.CopyTo(header);
        return header;
    }

    private static void WriteArray(Utf8JsonWriter json, string name, ReadOnlySpan<long> values)
    {
        json.WriteStartArray(name);
        foreach (long value in values)
            json.WriteNumberValue(value);
        json.WriteEndArray();
    }

    private sealed record Item(string Name, string Type, long[] Shape, long Bytes, Action<Stream> Write);
}
