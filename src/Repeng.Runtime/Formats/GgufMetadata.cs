using System.Runtime.CompilerServices;
using System.Text;
using System.Text.Unicode;
using Repeng.Kernels;

namespace Repeng.Runtime.Formats;

/// <summary>Types of metadata values, by their numbers in a GGUF file.</summary>
public enum GgufValueType : uint
{
    /// <summary>Unsigned 8-bit integer.</summary>
    UInt8,

    /// <summary>Signed 8-bit integer.</summary>
    Int8,

    /// <summary>Unsigned 16-bit integer.</summary>
    UInt16,

    /// <summary>Signed 16-bit integer.</summary>
    Int16,

    /// <summary>Unsigned 32-bit integer.</summary>
    UInt32,

    /// <summary>Signed 32-bit integer.</summary>
    Int32,

    /// <summary>IEEE binary32.</summary>
    Float32,

    /// <summary>One byte, 0 or 1.</summary>
    Bool,

    /// <summary>UTF-8 text with a 64-bit length.</summary>
    String,

    /// <summary>Values of one type with a 64-bit count.</summary>
    Array,

    /// <summary>Unsigned 64-bit integer.</summary>
    UInt64,

    /// <summary>Signed 64-bit integer.</summary>
    Int64,

    /// <summary>IEEE binary64.</summary>
    Float64,
}

/// <summary>Where a metadata value lies. For an array <see cref="Type"/> is the type of its elements.</summary>
internal readonly record struct GgufValue(GgufValueType Type, bool IsArray, long Count, long Offset, long Bytes);

/// <summary>
/// Metadata of a GGUF file. Values stay in the mapped file and are converted when they are asked for; texts are
/// checked for UTF-8 then. A key that is missing, of another type or outside its range gives a
/// <see cref="UserErrorException"/> that names file, key and value.
/// </summary>
public sealed unsafe class GgufMetadata
{
    private readonly MappedFile _file;
    private readonly Dictionary<string, GgufValue> _values;
    private readonly List<string> _keys;

    internal GgufMetadata(MappedFile file, Dictionary<string, GgufValue> values, List<string> keys) =>
        (_file, _values, _keys) = (file, values, keys);

    /// <summary>All keys in the order of the file.</summary>
    public IReadOnlyList<string> Keys => _keys;

    /// <summary>Whether a key is there.</summary>
    public bool Has(string key) => _values.ContainsKey(key);

    /// <summary>Whether a key is there and holds an array.</summary>
    public bool IsArray(string key) => _values.TryGetValue(key, out GgufValue value) && value.IsArray;

    /// <summary>A text.</summary>
    public string Text(string key) => OptionalText(key) ?? throw Missing(key);

    /// <summary>A text, null where the key is missing.</summary>
    public string? OptionalText(string key)
    {
        if (!TryScalar(key, "a text", out GgufValue value))
            return null;
        return value.Type == GgufValueType.String ? ReadText(key, value.Offset, out _) : throw Wrong(key, "a text");
    }

    /// <summary>A whole number of any integer type in [min, max].</summary>
    public long Integer(string key, long min = long.MinValue, long max = long.MaxValue) => OptionalInteger(key, min, max) ?? throw Missing(key);

    /// <summary>As <see cref="Integer"/>, null where the key is missing.</summary>
    public long? OptionalInteger(string key, long min = long.MinValue, long max = long.MaxValue) =>
        TryScalar(key, "a whole number", out GgufValue value) ? Ranged(key, ReadInteger(key, value, 0), min, max) : null;

    /// <summary>A finite number of any numeric type, exactly as stored, in [min, max].</summary>
    public double Number(string key, double min = double.MinValue, double max = double.MaxValue) => OptionalNumber(key, min, max) ?? throw Missing(key);

    /// <summary>As <see cref="Number"/>, null where the key is missing.</summary>
    public double? OptionalNumber(string key, double min = double.MinValue, double max = double.MaxValue)
    {
        if (!TryScalar(key, "a number", out GgufValue value))
            return null;
        double number = ReadNumber(key, value, 0);
        return number >= min && number <= max ? number : throw Bad(key, $"is {number:R}, it must be finite and lie from {min:R} to {max:R}");
    }

    /// <summary>true or false, null where the key is missing.</summary>
    public bool? OptionalBoolean(string key)
    {
        if (!TryScalar(key, "true or false", out GgufValue value))
            return null;
        return value.Type == GgufValueType.Bool ? *_file.At(value.Offset, 1) != 0 : throw Wrong(key, "true or false");
    }

    /// <summary>An array of texts, null where the key is missing.</summary>
    public string[]? OptionalTexts(string key)
    {
        if (!TryArray(key, "an array of texts", out GgufValue value))
            return null;
        if (value.Type != GgufValueType.String && value.Count > 0)
            throw Wrong(key, "an array of texts");
        var texts = new string[ArrayLength(key, value)];
        long at = value.Offset;
        for (int i = 0; i < texts.Length; i++)
        {
            texts[i] = ReadText(key, at, out long bytes, i);
            at += bytes;
        }
        return texts;
    }

    /// <summary>An array of whole numbers in [min, max], null where the key is missing; a single number counts as an array of one.</summary>
    public long[]? OptionalIntegers(string key, long min = long.MinValue, long max = long.MaxValue)
    {
        if (!_values.TryGetValue(key, out GgufValue value))
            return null;
        var numbers = new long[ArrayLength(key, value)];
        for (int i = 0; i < numbers.Length; i++)
            numbers[i] = Ranged(key, ReadInteger(key, value, i), min, max);
        return numbers;
    }

    /// <summary>An array of 8-bit integers as bytes, null where the key is missing.</summary>
    public byte[]? OptionalBytes(string key)
    {
        if (!TryArray(key, "an array of bytes", out GgufValue value))
            return null;
        return value.Type is GgufValueType.UInt8 or GgufValueType.Int8 ? _file.Span(value.Offset, ArrayLength(key, value)).ToArray() : throw Wrong(key, "an array of bytes");
    }

    /// <summary>An array of true and false (or of integers, of which 0 is false), null where the key is missing.</summary>
    public bool[]? OptionalBooleans(string key)
    {
        if (!TryArray(key, "an array of true and false", out GgufValue value))
            return null;
        var values = new bool[ArrayLength(key, value)];
        for (int i = 0; i < values.Length; i++)
            values[i] = value.Type == GgufValueType.Bool ? *_file.At(value.Offset + i, 1) != 0 : ReadInteger(key, value, i) != 0;
        return values;
    }

    /// <summary>An array of numbers, exactly as stored, null where the key is missing.</summary>
    public double[]? OptionalNumbers(string key)
    {
        if (!TryArray(key, "an array of numbers", out GgufValue value))
            return null;
        var numbers = new double[ArrayLength(key, value)];
        for (int i = 0; i < numbers.Length; i++)
            numbers[i] = ReadNumber(key, value, i);
        return numbers;
    }

    /// <summary>A short text of any value for people: the value, or type, count and first elements of an array.</summary>
    public string Preview(string key)
    {
        GgufValue value = _values.TryGetValue(key, out GgufValue v) ? v : throw Missing(key);
        var parts = new List<string>();
        long at = value.Offset;
        for (int i = 0; i < Math.Min(value.Count, 4); i++)
        {
            if (value.Type == GgufValueType.String)
            {
                parts.Add(FileErrors.Quote(ReadText(key, at, out long bytes)));
                at += bytes;
            }
            else if (value.Type == GgufValueType.Bool)
                parts.Add(*_file.At(value.Offset + i, 1) != 0 ? "true" : "false");
            else if (value.Type is GgufValueType.Float32)
                parts.Add(((float)ReadNumber(key, value, i)).ToString("R"));
            else if (value.Type is GgufValueType.Float64)
                parts.Add(ReadNumber(key, value, i).ToString("R"));
            else if (value.Type is GgufValueType.UInt64)
                parts.Add(Unsafe.ReadUnaligned<ulong>(_file.At(value.Offset + 8L * i, 8)).ToString());
            else
                parts.Add(ReadInteger(key, value, i).ToString());
        }
        return !value.IsArray ? parts[0] : $"{value.Type}[{value.Count}] {string.Join(", ", parts)}{(value.Count > parts.Count ? ", …" : "")}";
    }

    /// <summary>Type, whether it is an array, count, and the encoded bytes of a value as they stand in the file.</summary>
    internal GgufValue Encoded(string key, out ReadOnlySpan<byte> bytes)
    {
        GgufValue value = _values[key];
        bytes = _file.Span(value.Offset, checked((int)value.Bytes));
        return value;
    }

    /// <summary>An error about one key.</summary>
    internal UserErrorException Bad(string key, string what) => FileErrors.Bad(_file.Path, $"metadata {FileErrors.Quote(key)} {what}");

    private UserErrorException Missing(string key) => Bad(key, "is missing");

    private UserErrorException Wrong(string key, string needed)
    {
        GgufValue value = _values[key];
        return Bad(key, $"is {(value.IsArray ? $"an array of {value.Count} {value.Type}" : $"{value.Type}")}, {needed} is needed");
    }

    private bool TryScalar(string key, string needed, out GgufValue value)
    {
        if (!_values.TryGetValue(key, out value))
            return false;
        return !value.IsArray ? true : throw Wrong(key, needed);
    }

    private bool TryArray(string key, string needed, out GgufValue value)
    {
        if (!_values.TryGetValue(key, out value))
            return false;
        return value.IsArray ? true : throw Wrong(key, needed);
    }

    private int ArrayLength(string key, GgufValue value) =>
        value.Count <= Array.MaxLength ? (int)value.Count : throw Bad(key, $"holds {value.Count} values, at most {Array.MaxLength} can be read");

    private long Ranged(string key, long number, long min, long max) =>
        number >= min && number <= max ? number : throw Bad(key, $"is {number}, it must lie from {min} to {max}");

    private long ReadInteger(string key, GgufValue value, long index)
    {
        int size = GgufFile.SizeOf(value.Type);
        byte* p = size == 0 ? null : _file.At(value.Offset + index * size, size);
        switch (value.Type)
        {
            case GgufValueType.UInt8:
                return *p;
            case GgufValueType.Int8:
                return (sbyte)*p;
            case GgufValueType.UInt16:
                return Unsafe.ReadUnaligned<ushort>(p);
            case GgufValueType.Int16:
                return Unsafe.ReadUnaligned<short>(p);
            case GgufValueType.UInt32:
                return Unsafe.ReadUnaligned<uint>(p);
            case GgufValueType.Int32:
                return Unsafe.ReadUnaligned<int>(p);
            case GgufValueType.Int64:
                return Unsafe.ReadUnaligned<long>(p);
            case GgufValueType.UInt64:
                ulong wide = Unsafe.ReadUnaligned<ulong>(p);
                return wide <= long.MaxValue ? (long)wide : throw Bad(key, $"is {wide}, at most {long.MaxValue} can be read");
            default:
                throw Wrong(key, "a whole number");
        }
    }

    private double ReadNumber(string key, GgufValue value, long index) => value.Type switch
    {
        GgufValueType.Float32 => Unsafe.ReadUnaligned<float>(_file.At(value.Offset + 4 * index, 4)),
        GgufValueType.Float64 => Unsafe.ReadUnaligned<double>(_file.At(value.Offset + 8 * index, 8)),
        _ => ReadInteger(key, value, index),
    };

    private string ReadText(string key, long offset, out long bytes, int? index = null)
    {
        ulong length = Unsafe.ReadUnaligned<ulong>(_file.At(offset, 8));
        if (length > int.MaxValue)
            throw Bad(key, $"{Element(index)}is a text of {length} bytes, at most {int.MaxValue} can be read");
        ReadOnlySpan<byte> utf8 = _file.Span(offset + 8, (int)length);
        bytes = 8 + (long)length;
        return Utf8.IsValid(utf8) ? Encoding.UTF8.GetString(utf8) : throw Bad(key, $"{Element(index)}is no valid UTF-8 text");
    }

    private static string Element(int? index) => index is null ? "" : $"element {index} ";
}
