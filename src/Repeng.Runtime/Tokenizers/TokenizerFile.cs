using System.Runtime.CompilerServices;
using System.Text;
using System.Text.Json;
using Repeng.Kernels;
using Repeng.Runtime.Formats;

namespace Repeng.Runtime.Tokenizers;

/// <summary>
/// Reads tokenizer.json. The file is taken for hostile: everything is checked, and every complaint is one
/// <see cref="UserErrorException"/> with the file and the place. The large parts, vocabulary and merges, are read
/// straight from the bytes.
/// </summary>
internal sealed class TokenizerFile
{
    private readonly Dictionary<string, JsonElement> _sections = [];

    /// <summary>Where the properties of the model stand that are no vocabulary and no merges; small.</summary>
    private readonly List<Range> _modelSettings = [];
    private readonly List<double> _scores = [];
    private readonly ReadOnlyMemory<byte> _json;
    private readonly string _file;
    private Vocabulary? _vocabulary;
    private MergeTable? _merges;
    private int _mergesAt = -1;
    private int _mergesPrefix;
    private bool _hasModel;
    private bool _hasScores;

    private TokenizerFile(ReadOnlyMemory<byte> json, string file)
    {
        _json = json;
        _file = file;
    }

    /// <param name="json">The whole file, UTF-8, with or without a byte order mark.</param>
    /// <param name="file">Its name for error messages.</param>
    public static TokenizerParts Read(ReadOnlyMemory<byte> json, string file)
    {
        if (json.Span.StartsWith(Encoding.UTF8.Preamble))
            json = json[Encoding.UTF8.Preamble.Length..];
        var reading = new TokenizerFile(json, file);
        try
        {
            reading.ReadTop();
            return reading.Build();
        }
        catch (Exception e) when (e is JsonException or InvalidOperationException)
        {
            throw JsonFile.Invalid(file, e);
        }
    }

    private UserErrorException Error(string message) => new($"{_file}: {message}");

    private void ReadTop()
    {
        var cursor = new JsonCursor(_json.Span, 0, _file);
        if (!cursor.TryTake('{'))
            throw Error("must hold a JSON object with 'model', 'added_tokens' …; this is no tokenizer.json");
        bool first = true;
        while (cursor.TryName(ref first, out ReadOnlySpan<byte> name))
        {
            if (name.SequenceEqual("model"u8) && cursor.TryTake('{'))
            {
                // Merges hold ids of the vocabulary that stood before them, so a later one must not take its place.
                if (_hasModel)
                    throw Error("'model' stands twice; leave one");
                ReadModel(ref cursor);
            }
            else
                _sections[Encoding.UTF8.GetString(name)] = cursor.Value();
        }
        if (cursor.Peek() != 0 || cursor.At < _json.Length)
            throw cursor.Error("something stands behind the object");
    }

    private void ReadModel(ref JsonCursor cursor)
    {
        _hasModel = true;
        bool first = true;
        int prefix = 0;
        while (true)
        {
            cursor.Peek();
            int start = cursor.At;
            if (!cursor.TryName(ref first, out ReadOnlySpan<byte> name))
                return;
            if (name.SequenceEqual("vocab"u8) && cursor.Peek() is (byte)'{' or (byte)'[')
            {
                if (_vocabulary is not null)
                    throw Error("model: 'vocab' stands twice; leave one");
                if (cursor.TryTake('{'))
                    ReadVocabulary(ref cursor);
                else
                    ReadPieces(ref cursor);
            }
            else if (name.SequenceEqual("merges"u8) && cursor.Peek() == '[')
            {
                if (_mergesAt >= 0)
                    throw Error("model: 'merges' stands twice; leave one");
                // Merges name tokens, so they wait where the vocabulary comes later; so do those with a fault, which is reported then.
                _mergesAt = cursor.At;
                JsonCursor before = cursor;
                _merges = _vocabulary is null ? null : ReadMerges(ref cursor, prefix, out _);
                if (_merges is null)
                {
                    cursor = before;
                    cursor.SkipArray();
                }
                _mergesPrefix = prefix;
            }
            else
            {
                bool isPrefix = name.SequenceEqual("continuing_subword_prefix"u8);
                JsonElement value = cursor.Value();
                if (isPrefix && value.ValueKind == JsonValueKind.String)
                    prefix = Encoding.UTF8.GetByteCount(value.GetString()!);
                _modelSettings.Add(start..cursor.At);
            }
        }
    }

    private void ReadVocabulary(ref JsonCursor cursor)
    {
        // Merges take most of a file that has them.
        const int bytesPerEntry = 128;
        _vocabulary = new Vocabulary(_file, Math.Min(_json.Length / bytesPerEntry, 1 << 18));
        bool first = true;
        while (cursor.TryName(ref first, out ReadOnlySpan<byte> token))
        {
            if (!cursor.TryInteger(out int id))
                throw Error($"model.vocab: token {JsonSection.Quote(Encoding.UTF8.GetString(token))} must have a whole number below {Vocabulary.IdLimit} as its id");
            _vocabulary.Add(token, id);
        }
    }

    /// <summary>The vocabulary of a Unigram model: [token, log-probability] by id.</summary>
    private void ReadPieces(ref JsonCursor cursor)
    {
        const int bytesPerEntry = 28;
        cursor.Take('[');
        _vocabulary = new Vocabulary(_file, Math.Min(_json.Length / bytesPerEntry, 1 << 18));
        _hasScores = true;
        bool first = true;
        while (cursor.Continues(ref first, ']'))
        {
            int id = _scores.Count;
            if (!cursor.TryTake('[') || cursor.Peek() != '"')
                throw NoPiece(id);
            _vocabulary.AddOrReplace(cursor.Text(), id);
            if (!cursor.TryTake(',') || !cursor.TryNumber(out double score) || !cursor.TryTake(']'))
                throw NoPiece(id);
            _scores.Add(score);
        }
    }

    private UserErrorException NoPiece(int id) => Error($"model.vocab[{id}]: must be [\"token\", log-probability]");

    /// <summary>The small properties of the model, put together so that they are read like any other section.</summary>
    private JsonSection Settings()
    {
        var json = new List<byte> { (byte)'{' };
        foreach (Range property in _modelSettings)
        {
            ReadOnlySpan<byte> text = _json.Span[property];
            // All but the first begin with the comma before them.
            if (text[0] == ',')
                text = text[1..];
            if (json.Count > 1)
                json.Add((byte)',');
            json.AddRange(text);
        }
        json.Add((byte)'}');
        return new JsonSection(_file, "model", JsonElement.Parse(System.Runtime.InteropServices.CollectionsMarshal.AsSpan(json)));
    }

    private JsonSection? Section(string name) =>
        _sections.TryGetValue(name, out JsonElement element) && element.ValueKind != JsonValueKind.Null
            ? new JsonSection(_file, name, element) : null;

    private TokenizerParts Build()
    {
        if (!_hasModel)
            throw Error("has no 'model'; this is no tokenizer.json");
        JsonSection settings = Settings();
        string type = settings.TextOrNull("type") ?? GuessType(settings);
        if (type is not ("BPE" or "Unigram" or "WordPiece" or "WordLevel"))
            throw settings.UnknownType("BPE, Unigram, WordPiece, WordLevel");
        if (_vocabulary is null || _hasScores != (type == "Unigram"))
            throw settings.Error(type == "Unigram" ? "'vocab' must be an array of [\"token\", log-probability]" : "'vocab' is missing or is no object");
        TokenizerModel model = type switch
        {
            "BPE" => BuildBpe(settings),
            "Unigram" => new UnigramModel(_vocabulary, [.. _scores], settings.TryGet("unk_id", out _) ? settings.Number("unk_id") : null, settings.Flag("byte_fallback", false), _file),
            "WordPiece" => new WordPieceModel(_vocabulary, ReadWordPieceOptions(settings), _file),
            _ => new WordLevelModel(_vocabulary, settings.TextOrNull("unk_token") ?? "<unk>", _file),
        };
        List<AddedToken> added = ReadAddedTokens();
        List<int> prefix = [], suffix = [];
        if (Section("post_processor") is { } post)
            PostProcessing.Read(post, new TokenizerIds(_vocabulary, added), prefix, suffix);
        return new TokenizerParts
        {
            File = _file,
            Vocabulary = _vocabulary,
            Model = model,
            AddedTokens = added,
            Normalizer = Section("normalizer") is { } normalizer ? Normalizer.Read(normalizer) : null,
            PreTokenizers = Section("pre_tokenizer") is { } split ? [.. PreTokenizer.Read(split)] : [],
            Prefix = prefix,
            Suffix = suffix,
            Decoders = Section("decoder") is { } decoder ? TokenDecoder.Read(decoder) : null,
        };
    }

    /// <summary>Files of the first years do not name the type; each has a property that no other has.</summary>
    private string GuessType(JsonSection settings) =>
        _mergesAt >= 0 ? "BPE"
        : _hasScores ? "Unigram"
        : settings.TryGet("continuing_subword_prefix", out _) ? "WordPiece"
        : throw settings.Error("'type' is missing");

    private static WordPieceOptions ReadWordPieceOptions(JsonSection settings)
    {
        var options = new WordPieceOptions();
        return options with
        {
            Unknown = settings.TextOrNull("unk_token") ?? options.Unknown,
            ContinuingPrefix = settings.TextOrNull("continuing_subword_prefix") ?? options.ContinuingPrefix,
            LongestWord = settings.TryGet("max_input_chars_per_word", out _) ? settings.Number("max_input_chars_per_word") : options.LongestWord,
        };
    }

    private BpeModel BuildBpe(JsonSection settings)
    {
        if (settings.TryGet("dropout", out JsonElement dropout) && (dropout.ValueKind != JsonValueKind.Number || dropout.GetDouble() != 0))
            throw settings.Error($"the dropout {dropout.GetRawText()} would make encoding random; set it to null");
        var options = new BpeOptions
        {
            Unknown = settings.TextOrNull("unk_token"),
            FuseUnknown = settings.Flag("fuse_unk", false),
            ByteFallback = settings.Flag("byte_fallback", false),
            IgnoreMerges = settings.Flag("ignore_merges", false),
            ContinuingPrefix = settings.TextOrNull("continuing_subword_prefix") ?? "",
            EndSuffix = settings.TextOrNull("end_of_word_suffix") ?? "",
        };
        if (_mergesAt < 0)
            throw settings.Error("'merges' is missing or is no array");
        int prefix = Encoding.UTF8.GetByteCount(options.ContinuingPrefix);
        if (_merges is null || _mergesPrefix != prefix)
        {
            var cursor = new JsonCursor(_json.Span, _mergesAt, _file);
            _merges = ReadMerges(ref cursor, prefix, out string? fault) ?? throw Error(fault!);
        }
        return new BpeModel(_vocabulary!, _merges, options, _file);
    }

    /// <summary>Merges are "a b" (exactly one space) or ["a","b"]; a continuing prefix of the right part drops out of the result. Null where one is faulty.</summary>
    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    private MergeTable? ReadMerges(ref JsonCursor cursor, int prefixBytes, out string? fault)
    {
        const int bytesPerMerge = 40;
        var reader = new MergeReader(_vocabulary!, Math.Min((_json.Length - _mergesAt) / bytesPerMerge, 1 << 20), prefixBytes);
        cursor.Take('[');
        bool first = true;
        while (cursor.Continues(ref first, ']'))
        {
            fault = "must be \"a b\" or [\"a\", \"b\"]";
            if (cursor.Peek() == '"')
            {
                fault = reader.AddPair(cursor.Text());
            }
            else if (cursor.TryTake('[') && cursor.Peek() == '"')
            {
                reader.SetLeft(cursor.Text());
                if (cursor.TryTake(',') && cursor.Peek() == '"' && cursor.Text() is var right && cursor.TryTake(']'))
                    fault = reader.AddRight(right);
            }
            if (fault is null)
                continue;
            fault = $"model.merges[{reader.Count}]: {fault}";
            return null;
        }
        fault = null;
        return reader.Table;
    }

    private List<AddedToken> ReadAddedTokens()
    {
        List<AddedToken> tokens = [];
        if (!_sections.TryGetValue("added_tokens", out JsonElement list) || list.ValueKind == JsonValueKind.Null)
            return tokens;
        if (list.ValueKind != JsonValueKind.Array)
            throw Error("added_tokens: must be an array");
        int index = 0;
        foreach (JsonElement item in list.EnumerateArray())
        {
            var section = new JsonSection(_file, $"added_tokens[{index++}]", item);
            var token = new AddedToken(
                section.Number("id"), section.Text("content"), section.Flag("single_word", false),
                section.Flag("lstrip", false), section.Flag("rstrip", false),
                section.Flag("normalized", true), section.Flag("special", false));
            if (token.Content.Length > 0)
                tokens.Add(token);
        }
        return tokens;
    }
}
