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
    /// <summary>The properties of a model that are no vocabulary and no merges; small.</summary>
    private readonly Dictionary<string, JsonElement> _modelSettings = [];
    private readonly Dictionary<string, JsonElement> _sections = [];
    private readonly ReadOnlyMemory<byte> _json;
    private readonly string _file;
    private readonly List<double> _scores = [];
    private Vocabulary? _vocabulary;
    private bool _hasScores;
    private Range? _merges;
    private bool _hasModel;

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
        var reader = new Utf8JsonReader(_json.Span);
        reader.Read();
        if (reader.TokenType != JsonTokenType.StartObject)
            throw Error("must hold a JSON object with 'model', 'added_tokens' …; this is no tokenizer.json");
        while (reader.Read() && reader.TokenType == JsonTokenType.PropertyName)
        {
            string name = reader.GetString()!;
            reader.Read();
            if (name == "model" && reader.TokenType == JsonTokenType.StartObject)
                ReadModel(ref reader);
            else
                _sections[name] = JsonElement.ParseValue(ref reader);
        }
        // Reads to the end, so that rubbish after the object is an error.
        while (reader.Read())
        {
        }
    }

    private void ReadModel(ref Utf8JsonReader reader)
    {
        _hasModel = true;
        while (reader.Read() && reader.TokenType == JsonTokenType.PropertyName)
        {
            string name = reader.GetString()!;
            reader.Read();
            if (name == "vocab" && reader.TokenType == JsonTokenType.StartObject)
            {
                ReadVocabulary(ref reader);
            }
            else if (name == "merges" && reader.TokenType == JsonTokenType.StartArray)
            {
                // Merges name tokens, so they wait until the vocabulary is there, wherever it stands.
                int start = (int)reader.TokenStartIndex;
                reader.Skip();
                _merges = start..(int)reader.BytesConsumed;
            }
            else if (name == "vocab" && reader.TokenType == JsonTokenType.StartArray)
            {
                ReadPieces(ref reader);
            }
            else if (name is "vocab" or "merges")
            {
                // Refused below, where the kind of model is known.
                reader.Skip();
            }
            else
            {
                _modelSettings[name] = JsonElement.ParseValue(ref reader);
            }
        }
    }

    private void ReadVocabulary(ref Utf8JsonReader reader)
    {
        const int bytesPerEntry = 24;
        _vocabulary = new Vocabulary(_file, Math.Min(_json.Length / bytesPerEntry, 1 << 18));
        while (reader.Read() && reader.TokenType == JsonTokenType.PropertyName)
        {
            string token = reader.GetString()!;
            reader.Read();
            if (reader.TokenType != JsonTokenType.Number || !reader.TryGetInt32(out int id))
                throw Error($"model.vocab: token {JsonSection.Quote(token)} must have a whole number below {Vocabulary.IdLimit} as its id");
            _vocabulary.Add(token, id);
        }
    }

    /// <summary>The vocabulary of a Unigram model: [token, log-probability] by id.</summary>
    private void ReadPieces(ref Utf8JsonReader reader)
    {
        const int bytesPerEntry = 28;
        _vocabulary = new Vocabulary(_file, Math.Min(_json.Length / bytesPerEntry, 1 << 18));
        _hasScores = true;
        while (reader.Read() && reader.TokenType != JsonTokenType.EndArray)
        {
            int id = _scores.Count;
            if (reader.TokenType != JsonTokenType.StartArray || !reader.Read() || reader.TokenType != JsonTokenType.String)
                throw NoPiece(id);
            string token = reader.GetString()!;
            if (!reader.Read() || reader.TokenType != JsonTokenType.Number || !reader.TryGetDouble(out double score) || !double.IsFinite(score))
                throw NoPiece(id);
            if (!reader.Read() || reader.TokenType != JsonTokenType.EndArray)
                throw NoPiece(id);
            _vocabulary.AddOrReplace(token, id);
            _scores.Add(score);
        }
    }

    private UserErrorException NoPiece(int id) => Error($"model.vocab[{id}]: must be [\"token\", log-probability]");

    private JsonSection Settings()
    {
        // Put together again so that the settings are read like any other section.
        using var buffer = new MemoryStream();
        using (var writer = new Utf8JsonWriter(buffer))
        {
            writer.WriteStartObject();
            foreach ((string name, JsonElement value) in _modelSettings)
            {
                writer.WritePropertyName(name);
                value.WriteTo(writer);
            }
            writer.WriteEndObject();
        }
        return new JsonSection(_file, "model", JsonElement.Parse(buffer.ToArray()));
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
        _merges is not null ? "BPE"
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
        if (_merges is not { } merges)
            throw settings.Error("'merges' is missing or is no array");
        var table = new MergeTable(ReadMerges(_json[merges], options.ContinuingPrefix.Length));
        return new BpeModel(_vocabulary!, table, options, _file);
    }

    /// <summary>Merges are "a b" (exactly one space) or ["a","b"]; a continuing prefix of the right part drops out of the result.</summary>
    private List<(int, int, int, int)> ReadMerges(ReadOnlyMemory<byte> json, int prefixLength)
    {
        const int bytesPerMerge = 20;
        List<(int, int, int, int)> merges = new(Math.Min(json.Length / bytesPerMerge, 1 << 20));
        char[] text = new char[256];
        var reader = new Utf8JsonReader(json.Span);
        reader.Read();
        for (int rank = 0; reader.Read() && reader.TokenType != JsonTokenType.EndArray; rank++)
        {
            int left, right;
            if (reader.TokenType == JsonTokenType.String)
            {
                int length = Copy(reader, ref text, 0);
                left = text.AsSpan(0, length).IndexOf(' ');
                right = length - left - 1;
                if (left < 0 || text.AsSpan(left + 1, right).Contains(' '))
                    throw Error($"model.merges[{rank}]: {JsonSection.Quote(text.AsSpan(0, length))} must be two tokens with one space between them");
                text.AsSpan(left + 1, right).CopyTo(text.AsSpan(left));
            }
            else if (reader.TokenType == JsonTokenType.StartArray)
            {
                reader.Read();
                left = reader.TokenType == JsonTokenType.String ? Copy(reader, ref text, 0) : throw NoPair(rank);
                reader.Read();
                right = reader.TokenType == JsonTokenType.String ? Copy(reader, ref text, left) : throw NoPair(rank);
                reader.Read();
                if (reader.TokenType != JsonTokenType.EndArray)
                    throw NoPair(rank);
            }
            else
            {
                throw NoPair(rank);
            }
            int leftId = IdOf(text.AsSpan(0, left), rank);
            int rightId = IdOf(text.AsSpan(left, right), rank);
            if (prefixLength > 0)
            {
                int dropped = Math.Min(prefixLength, right);
                text.AsSpan(left + dropped, right - dropped).CopyTo(text.AsSpan(left));
                right -= dropped;
            }
            merges.Add((leftId, rightId, rank, IdOf(text.AsSpan(0, left + right), rank)));
        }
        return merges;
    }

    private UserErrorException NoPair(int rank) => Error($"model.merges[{rank}]: must be \"a b\" or [\"a\", \"b\"]");

    /// <summary>Unescapes the reader's string to <paramref name="at"/> in the buffer, which grows as needed; returns its length.</summary>
    private static int Copy(in Utf8JsonReader reader, ref char[] buffer, int at)
    {
        // UTF-16 never has more units than UTF-8 has bytes.
        int room = at + reader.ValueSpan.Length;
        if (room > buffer.Length)
            Array.Resize(ref buffer, Math.Max(room, buffer.Length * 2));
        return reader.CopyString(buffer.AsSpan(at));
    }

    private int IdOf(ReadOnlySpan<char> token, int rank) => _vocabulary!.TryGetId(token, out int id) ? id
        : throw Error($"model.merges[{rank}]: the token {JsonSection.Quote(token)} is not in the vocabulary");

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
