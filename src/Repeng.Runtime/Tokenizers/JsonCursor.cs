using System.Buffers.Text;
using System.Runtime.CompilerServices;
using System.Text.Json;
using System.Text.Unicode;
using Repeng.Kernels;
using Repeng.Runtime.Formats;

namespace Repeng.Runtime.Tokenizers;

/// <summary>
/// Reads the large parts of a tokenizer.json, vocabulary and merges, straight from its bytes: a quarter of a million texts of
/// a few bytes, for which a general reader does more than the rest of the load. Small values go to <see cref="JsonElement"/>.
/// </summary>
internal ref struct JsonCursor(ReadOnlySpan<byte> json, int at, string file)
{
    private readonly ReadOnlySpan<byte> _json = json;
    private readonly string _file = file;
    private int _at = at;
    private byte[] _unescaped = [];

    public readonly int At => _at;

    /// <summary>An error at this place.</summary>
    public readonly UserErrorException Error(string what) => FileErrors.Bad(_file, $"is not valid JSON (byte {_at}): {what}");

    /// <summary>The next byte that is no white space; 0 at the end.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public byte Peek()
    {
        while (_at < _json.Length)
        {
            byte b = _json[_at];
            if (b is not ((byte)' ' or (byte)'\n' or (byte)'\r' or (byte)'\t'))
                return b;
            _at++;
        }
        return 0;
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public bool TryTake(char c)
    {
        if (Peek() != c)
            return false;
        _at++;
        return true;
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public void Take(char c)
    {
        if (!TryTake(c))
            throw Error(_at >= _json.Length ? $"it ends where '{c}' should stand" : $"'{c}' should stand here");
    }

    /// <summary>The next name of an object with its colon, or false at its end. Call it from the opening brace on.</summary>
    public bool TryName(ref bool first, out ReadOnlySpan<byte> name)
    {
        name = default;
        if (!Continues(ref first, '}'))
            return false;
        name = Text();
        Take(':');
        return true;
    }

    /// <summary>Whether another item of an array or object follows, past its comma.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public bool Continues(ref bool first, char end)
    {
        if (TryTake(end))
            return false;
        if (!first)
            Take(',');
        first = false;
        return true;
    }

    /// <summary>A text as UTF-8, valid until the next one is read.</summary>
    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    public ReadOnlySpan<byte> Text()
    {
        Take('"');
        int start = _at, i = start;
        uint all = 0;
        while (i < _json.Length)
        {
            byte b = _json[i];
            if (b == '"')
            {
                ReadOnlySpan<byte> text = _json[start..i];
                _at = i + 1;
                return all < 128 || Utf8.IsValid(text) ? text : throw Error("a text in it is no valid Unicode");
            }
            if (b == '\\')
                return Unescape(start - 1);
            if (b < ' ')
                throw Error("a control character stands in a text");
            all |= b;
            i++;
        }
        throw Error("it ends within a text");
    }

    /// <summary>A small value of any kind.</summary>
    public JsonElement Value()
    {
        Peek();
        var reader = new Utf8JsonReader(_json[_at..]);
        try
        {
            JsonElement value = JsonElement.ParseValue(ref reader);
            _at += (int)reader.BytesConsumed;
            return value;
        }
        catch (JsonException e)
        {
            throw Error($"the value that begins here breaks off after {reader.BytesConsumed} bytes: {JsonFile.FirstSentence(e.Message)}");
        }
    }

    /// <summary>Passes over an array of texts and of arrays of texts, whose grammar is checked when it is read.</summary>
    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    public void SkipArray()
    {
        int depth = 0, i = _at;
        for (; i < _json.Length; i++)
        {
            byte b = _json[i];
            if (b == '"')
            {
                while (++i < _json.Length && _json[i] != '"')
                    i += _json[i] == '\\' ? 1 : 0;
            }
            else if (b == '[')
            {
                depth++;
            }
            else if (b == ']' && --depth == 0)
            {
                _at = i + 1;
                return;
            }
        }
        throw Error("it ends within the array that begins here");
    }

    /// <summary>A whole number; false when it is none, or too large.</summary>
    public bool TryInteger(out int number)
    {
        number = 0;
        if (Peek() is not ((byte)'-' or (>= (byte)'0' and <= (byte)'9')) || !Utf8Parser.TryParse(_json[_at..], out number, out int taken))
            return false;
        _at += taken;
        return _at >= _json.Length || _json[_at] is not ((byte)'.' or (byte)'e' or (byte)'E');
    }

    /// <summary>A finite number; false when it is none.</summary>
    public bool TryNumber(out double number)
    {
        number = 0;
        if (Peek() is not ((byte)'-' or (>= (byte)'0' and <= (byte)'9')) || !Utf8Parser.TryParse(_json[_at..], out number, out int taken) || !double.IsFinite(number))
            return false;
        _at += taken;
        return true;
    }

    /// <summary>Texts with escapes are few.</summary>
    private ReadOnlySpan<byte> Unescape(int quote)
    {
        var reader = new Utf8JsonReader(_json[quote..]);
        reader.Read();
        if (_unescaped.Length < reader.ValueSpan.Length)
            _unescaped = new byte[Math.Max(256, reader.ValueSpan.Length)];
        int length = reader.CopyString(_unescaped);
        _at = quote + (int)reader.BytesConsumed;
        return _unescaped.AsSpan(0, length);
    }
}
