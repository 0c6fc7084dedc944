using System.Numerics;
using System.Runtime.CompilerServices;
using System.Text;
using System.Text.Unicode;
using Repeng.Kernels;

namespace Repeng.Runtime.Formats;

/// <summary>
/// A GGUF file, version 2 or 3 (github.com/ggml-org/ggml, docs/gguf.md): metadata, tensor list, data. Everything but
/// the tensor values is checked at opening. Shapes are turned round to row-major, slowest dimension first.
/// </summary>
public sealed unsafe partial class GgufFile : MappedTensorSource
{
    /// <summary>Key of the architecture.</summary>
    public const string ArchitectureKey = "general.architecture";

    internal const string AlignmentKey = "general.alignment";
    internal const int MaxKeyBytes = 65535;
    internal const int MaxDimensions = 4;
    internal const uint DefaultAlignment = 32;

    // Real files have some hundred keys and some thousand tensors; the limits bound what a hostile header can allocate.
    private const ulong MostKeys = 1 << 16;
    private const ulong MostTensors = 1 << 20;

    // Smallest encoding of a key with its value, and of a tensor description.
    private const ulong KeyValueBytes = 8 + 1 + 4 + 1;
    private const ulong TensorInfoBytes = 8 + 1 + 4 + 4 + 8;

    private long _at;

    private GgufFile(MappedFile file) : base(file)
    {
        (ulong tensors, ulong keys) = ReadHeader();
        Metadata = ReadMetadata(keys);
        if (Metadata.Has(ArchitectureKey))
            Architecture = Metadata.Text(ArchitectureKey);
        Alignment = ReadAlignment();
        ReadTensors(tensors);
    }

    /// <summary>2 or 3.</summary>
    public uint Version { get; private set; }

    /// <summary>general.architecture, such as llama or controlvector; null where the key is missing.</summary>
    public string? Architecture { get; }

    /// <summary>What the data of every tensor is aligned to, in bytes.</summary>
    public uint Alignment { get; }

    /// <summary>All metadata.</summary>
    public GgufMetadata Metadata { get; }

    /// <summary>Opens a file; <see cref="UserErrorException"/> that names file, key or tensor and numbers for anything wrong in it.</summary>
    public static GgufFile Open(string path)
    {
        MappedFile file = MappedFile.Open(path);
        try
        {
            return new GgufFile(file);
        }
        catch
        {
            file.Dispose();
            throw;
        }
    }

    /// <summary>Bytes of one value of a fixed-size type; 0 for texts and arrays.</summary>
    internal static int SizeOf(GgufValueType type) => type switch
    {
        GgufValueType.UInt8 or GgufValueType.Int8 or GgufValueType.Bool => 1,
        GgufValueType.UInt16 or GgufValueType.Int16 => 2,
        GgufValueType.UInt32 or GgufValueType.Int32 or GgufValueType.Float32 => 4,
        GgufValueType.UInt64 or GgufValueType.Int64 or GgufValueType.Float64 => 8,
        _ => 0,
    };

    private (ulong Tensors, ulong Keys) ReadHeader()
    {
        if (File.Length < 4 || !File.Span(0, 4).SequenceEqual("GGUF"u8))
            throw Bad($"its {File.Length} bytes do not begin with GGUF; it is no GGUF file");
        _at = 4;
        Version = Read<uint>("version");
        if (Version is not (2 or 3))
            throw Bad((Version & 0xFFFF) == 0 && Version != 0
                ? $"version {Version} is written big-endian; only little-endian GGUF files can be read"
                : $"GGUF version {Version} is unknown; 2 and 3 can be read");
        ulong tensors = Read<ulong>("tensor count"), keys = Read<ulong>("metadata count");
        CheckCount("tensors", tensors, TensorInfoBytes, MostTensors);
        CheckCount("metadata entries", keys, KeyValueBytes, MostKeys);
        return (tensors, keys);
    }

    private void CheckCount(string what, ulong count, ulong leastBytes, ulong most)
    {
        ulong left = (ulong)(File.Length - _at);
        if (count > left / leastBytes)
            throw Bad($"{count} {what} are announced, the {left} bytes left hold at most {left / leastBytes}; it is cut short or damaged, fetch it again");
        if (count > most)
            throw Bad($"{count} {what} are announced, at most {most} are read");
    }

    private GgufMetadata ReadMetadata(ulong count)
    {
        var values = new Dictionary<string, GgufValue>(StringComparer.Ordinal);
        var keys = new List<string>();
        for (ulong i = 0; i < count; i++)
        {
            string key = ReadName($"the key of metadata entry {i}");
            if (!values.TryAdd(key, ReadValue(key)))
                throw Bad($"metadata {FileErrors.Quote(key)} stands there twice");
            keys.Add(key);
        }
        return new GgufMetadata(File, values, keys);
    }

    private GgufValue ReadValue(string key)
    {
        GgufValueType type = ReadValueType(key);
        bool isArray = type == GgufValueType.Array;
        ulong count = 1;
        if (isArray)
        {
            type = ReadValueType(key);
            if (type == GgufValueType.Array)
                throw Bad($"metadata {FileErrors.Quote(key)} is an array of arrays, which is not supported");
            count = Read<ulong>("the length of array", key);
        }
        ulong left = (ulong)(File.Length - _at);
        ulong size = (ulong)Math.Max(SizeOf(type), type == GgufValueType.String ? 8 : 0);
        if (count > left / size)
            throw Bad($"metadata {FileErrors.Quote(key)} announces {count} values of {type}, the {left} bytes left hold at most {left / size}; the file is cut short or damaged, fetch it again");
        long start = _at;
        if (type != GgufValueType.String)
            _at += (long)(count * size);
        else
            for (ulong i = 0; i < count; i++)
                SkipText(key);
        if (type == GgufValueType.Bool)
            CheckBooleans(key, start, (long)count);
        return new GgufValue(type, isArray, (long)count, start, _at - start);
    }

    private void CheckBooleans(string key, long start, long count)
    {
        for (long i = 0; i < count; i++)
            if (*File.At(start + i, 1) is > 1 and var value)
                throw Bad($"metadata {FileErrors.Quote(key)} holds {value} for true or false; only 0 and 1 are allowed");
    }

    private GgufValueType ReadValueType(string key)
    {
        uint type = Read<uint>("the type of", key);
        return type <= (uint)GgufValueType.Float64 ? (GgufValueType)type : throw Bad($"metadata {FileErrors.Quote(key)} has the unknown type {type}");
    }

    private void SkipText(string key)
    {
        ulong length = Read<ulong>("the length of text", key), left = (ulong)(File.Length - _at);
        if (length > left)
            throw Bad($"metadata {FileErrors.Quote(key)} announces a text of {length} bytes, {left} are left; the file is cut short or damaged, fetch it again");
        _at += (long)length;
    }

    private uint ReadAlignment()
    {
        if (!Metadata.Has(AlignmentKey))
            return DefaultAlignment;
        var alignment = (uint)Metadata.Integer(AlignmentKey, 0, uint.MaxValue);
        return BitOperations.IsPow2(alignment) ? alignment : throw Metadata.Bad(AlignmentKey, $"is {alignment}, it must be a power of two");
    }

    private void ReadTensors(ulong count)
    {
        var found = new List<(TensorInfo Info, StorageType Type, ulong Offset)>();
        for (ulong i = 0; i < count; i++)
            found.Add(ReadTensorInfo(i));
        ulong dataStart = Padded((ulong)_at);
        foreach ((TensorInfo info, StorageType type, ulong offset) in found)
        {
            ulong dataBytes = dataStart <= (ulong)File.Length ? (ulong)File.Length - dataStart : 0;
            if (offset % Alignment != 0)
                throw BadTensor(info.Name, $"data offset {offset} is no multiple of the alignment {Alignment}");
            if (offset > dataBytes || (ulong)info.Bytes > dataBytes - offset)
                throw BadTensor(info.Name, $"{info.Bytes} bytes at offset {offset} do not lie in the {dataBytes} bytes of data that the file holds; it is cut short or damaged, fetch it again");
            if (!TryAdd(info, type, (long)(dataStart + offset)))
                throw BadTensor(info.Name, "stands there twice");
        }
        found.Sort((a, b) => a.Offset.CompareTo(b.Offset));
        for (int i = 1; i < found.Count; i++)
            if (found[i].Offset < found[i - 1].Offset + (ulong)found[i - 1].Info.Bytes)
                throw BadTensor(found[i].Info.Name, $"data at offset {found[i].Offset} overlaps that of {FileErrors.Quote(found[i - 1].Info.Name)}, {found[i - 1].Info.Bytes} bytes at {found[i - 1].Offset}");
    }

    private (TensorInfo Info, StorageType Type, ulong Offset) ReadTensorInfo(ulong index)
    {
        string name = ReadName($"the name of tensor {index}");
        uint dimensions = Read<uint>("the dimensions of tensor", name);
        if (dimensions > MaxDimensions)
            throw BadTensor(name, $"has {dimensions} dimensions, at most {MaxDimensions} are allowed");
        var shape = new long[dimensions];
        Int128 elements = 1;
        for (uint i = 0; i < dimensions; i++)
        {
            ulong size = Read<ulong>("the shape of tensor", name);
            if (size is 0 or > long.MaxValue)
                throw BadTensor(name, $"dimension {i} is {size}; it must lie from 1 to {long.MaxValue}");
            elements *= size;
            if (elements > long.MaxValue)
                throw BadTensor(name, $"its shape has more than {long.MaxValue} elements");
            // The file counts the fastest dimension first.
            shape[dimensions - 1 - i] = (long)size;
        }
        uint id = Read<uint>("the type of tensor", name);
        StorageType type = StorageType.FindGgml(id) ?? throw BadTensor(name, StorageType.RemovedGgmlName(id) is { } removed
            ? $"has type {id} ({removed}), which was removed from ggml; convert the model anew"
            : $"has the unknown type {id}");
        ulong offset = Read<ulong>("the offset of tensor", name);
        long row = dimensions == 0 ? 1 : shape[^1];
        if (row % type.BlockElements != 0)
            throw BadTensor(name, $"rows of {row} are no multiple of {type.Name}'s block of {type.BlockElements}");
        if (!type.TryBytes((long)elements, out long bytes))
            throw BadTensor(name, $"{elements} elements of {type.Name} take more than {long.MaxValue} bytes");
        return (new TensorInfo(name, shape, type.Name, (long)elements, bytes), type, offset);
    }

    private ulong Padded(ulong at) => (at + Alignment - 1) / Alignment * Alignment;

    private string ReadName(string what)
    {
        ulong length = Read<ulong>(what);
        if (length is 0 or > MaxKeyBytes)
            throw Bad($"{what} has {length} bytes; it must have from 1 to {MaxKeyBytes}");
        ulong left = (ulong)(File.Length - _at);
        if (length > left)
            throw Bad($"ends within {what}: {length} bytes are announced, {left} are left; it is cut short or damaged, fetch it again");
        ReadOnlySpan<byte> utf8 = File.Span(_at, (int)length);
        if (!Utf8.IsValid(utf8))
            throw Bad($"{what} is no valid UTF-8");
        if (utf8.Contains((byte)0))
            throw Bad($"{what} contains a NUL: {FileErrors.Quote(Encoding.UTF8.GetString(utf8))}");
        _at += (long)length;
        return Encoding.UTF8.GetString(utf8);
    }

    /// <summary>Reads a number; what and name make the message, which is put together only when it is needed: a vocabulary is a hundred thousand reads.</summary>
    private T Read<T>(string what, string? name = null) where T : unmanaged
    {
        if (File.Length - _at < sizeof(T))
            throw Bad($"ends within {what}{(name is null ? "" : " " + FileErrors.Quote(name))}, at byte {File.Length}; it is cut short or damaged, fetch it again");
        var value = Unsafe.ReadUnaligned<T>(File.At(_at, sizeof(T)));
        _at += sizeof(T);
        return value;
    }

    private UserErrorException Bad(string what) => FileErrors.Bad(File.Path, what);

    private UserErrorException BadTensor(string name, string what) => FileErrors.Bad(File.Path, $"tensor {FileErrors.Quote(name)}: {what}");
}
