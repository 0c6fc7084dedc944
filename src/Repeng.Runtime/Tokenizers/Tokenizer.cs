using System.Collections.Concurrent;
using System.Runtime.InteropServices;
using System.Text;
using Repeng.Kernels;
using Repeng.Runtime.Formats;

namespace Repeng.Runtime.Tokenizers;

/// <summary>
/// Text to token ids and back, for the tokenizers of Hugging Face's tokenizer.json (byte-level BPE, BPE with byte
/// fallback, Unigram, WordPiece, whole words) and of GGUF files. Ids and texts equal those of the library that defines the format.
/// Truncation and padding settings of the file are not applied. All members may be used by several threads at once.
/// </summary>
public sealed class Tokenizer
{
    private readonly TokenizerParts _parts;
    private readonly TokenizerIds _ids;
    private readonly AddedTokenFinder _rawTokens;
    private readonly AddedTokenFinder _normalizedTokens;
    private readonly PreTokenizer[] _preTokenizers;
    private readonly bool _mapsBytes;
    private readonly BpeModel? _bpe;
    private readonly bool _decodesBytes;

    /// <summary>Tokens after a first decoder that replaces in each by itself, where there is one, as they were met.</summary>
    private readonly string?[]? _replaced;

    /// <summary>What encodings that have ended leave to later ones; as many as have run at once.</summary>
    private readonly ConcurrentBag<Working> _idle = [];
    private Working? _lastIdle;

    private Tokenizer(TokenizerParts parts, TokenizerSettings settings)
    {
        _parts = parts;
        _ids = new TokenizerIds(parts.Vocabulary, parts.AddedTokens);
        SpecialTokenTexts = settings.SpecialTokenTexts;
        ChatTemplates = settings.ChatTemplates;

        // Of added tokens that are equal once normalized, special ones count first.
        AddedToken[] added = [.. _ids.Added.OrderByDescending(t => t.Special)];
        _rawTokens = new AddedTokenFinder(added.Where(t => !t.Normalized).Select(t => (t.Content, t)));
        _normalizedTokens = new AddedTokenFinder(added.Where(t => t.Normalized).Select(t => (parts.Normalizer?.Normalize(t.Content) ?? t.Content, t)));

        _mapsBytes = parts.PreTokenizers.LastOrDefault() is ByteMapping;
        _preTokenizers = [.. _mapsBytes ? parts.PreTokenizers.SkipLast(1) : parts.PreTokenizers];
        _bpe = parts.Model as BpeModel;
        _decodesBytes = parts.Decoders is [ByteLevelDecoder];
        _replaced = parts.Decoders is [ReplaceDecoder, ..] ? new string?[_ids.End] : null;

        BosId = Named("bos_token");
        EosId = Named("eos_token");
        PadId = Named("pad_token");
        UnkId = Named("unk_token");
    }

    /// <summary>The number of ids: the highest id plus one. Ids may have gaps.</summary>
    public int VocabularySize => _ids.End;

    /// <summary>The same of the vocabulary alone, without added tokens.</summary>
    public int BaseVocabularySize => _parts.Vocabulary.IdEnd;

    /// <summary>The id of the configured <c>bos_token</c>; null when there is none.</summary>
    public int? BosId { get; }

    /// <summary>The id of the configured <c>eos_token</c>; null when there is none.</summary>
    public int? EosId { get; }

    /// <summary>The id of the configured <c>pad_token</c>; null when there is none.</summary>
    public int? PadId { get; }

    /// <summary>The id of the configured <c>unk_token</c>; null when there is none.</summary>
    public int? UnkId { get; }

    /// <summary>Texts of the configured special tokens by the names that chat templates use: <c>bos_token</c>, <c>eos_token</c> …</summary>
    public IReadOnlyDictionary<string, string> SpecialTokenTexts { get; }

    /// <summary>All chat templates by name; the usual one is called <c>default</c>.</summary>
    public IReadOnlyDictionary<string, string> ChatTemplates { get; }

    /// <summary>The usual chat template (Jinja): the one called <c>default</c>, or the only one; null when there is none.</summary>
    public string? ChatTemplate =>
        ChatTemplates.TryGetValue(TokenizerSettingsFile.DefaultTemplate, out string? template) ? template
        : ChatTemplates.Count == 1 ? ChatTemplates.Values.Single() : null;

    /// <summary>
    /// Loads tokenizer.json, with tokenizer_config.json and chat_template.jinja where they stand beside it.
    /// </summary>
    /// <param name="folderOrFile">The folder of a model, or the path of its tokenizer.json.</param>
    /// <exception cref="UserErrorException">A file is missing, unreadable or malformed, or needs what is not supported.</exception>
    public static Tokenizer Load(string folderOrFile)
    {
        string file = Directory.Exists(folderOrFile) ? Path.Combine(folderOrFile, "tokenizer.json") : folderOrFile;
        if (!File.Exists(file))
            throw new UserErrorException($"{file}: there is no such file; a tokenizer needs tokenizer.json, as Hugging Face's fast tokenizers write it");
        string folder = Path.GetDirectoryName(Path.GetFullPath(file))!;
        string configFile = Path.Combine(folder, "tokenizer_config.json");
        string templateFile = Path.Combine(folder, "chat_template.jinja");
        TokenizerParts parts = TokenizerFile.Read(ReadFile(file), file);
        byte[] config = File.Exists(configFile) ? ReadFile(configFile) : "{}"u8.ToArray();
        string? template = File.Exists(templateFile) ? DecodeText(ReadFile(templateFile), templateFile) : null;
        return new Tokenizer(parts, TokenizerSettingsFile.Read(config, configFile, template));
    }

    /// <summary>Makes a tokenizer of files in memory, such as those of an embedded model.</summary>
    /// <param name="tokenizerJson">The bytes of tokenizer.json, UTF-8.</param>
    /// <param name="tokenizerConfigJson">The bytes of tokenizer_config.json, UTF-8; empty for none.</param>
    /// <param name="chatTemplate">The text of chat_template.jinja, which goes before the configuration's own; null for none.</param>
    /// <param name="name">What error messages call the file.</param>
    /// <exception cref="UserErrorException">A file is malformed, or needs what is not supported.</exception>
    public static Tokenizer FromJson(
        ReadOnlyMemory<byte> tokenizerJson, ReadOnlyMemory<byte> tokenizerConfigJson = default, string? chatTemplate = null, string name = "tokenizer.json")
    {
        ReadOnlyMemory<byte> config = tokenizerConfigJson.IsEmpty ? "{}"u8.ToArray() : tokenizerConfigJson;
        return new Tokenizer(TokenizerFile.Read(tokenizerJson, name),
            TokenizerSettingsFile.Read(config, $"{name} (tokenizer_config.json)", chatTemplate));
    }

    /// <inheritdoc cref="FromJson(ReadOnlyMemory{byte}, ReadOnlyMemory{byte}, string?, string)"/>
    public static Tokenizer FromJson(string tokenizerJson, string? tokenizerConfigJson = null, string? chatTemplate = null, string name = "tokenizer.json") =>
        FromJson(Encoding.UTF8.GetBytes(tokenizerJson),
            tokenizerConfigJson is null ? default : Encoding.UTF8.GetBytes(tokenizerConfigJson), chatTemplate, name);

    /// <summary>Makes a tokenizer of the metadata of a GGUF file: gpt2 (byte-level BPE) with a known pre-tokenizer name, llama (SentencePiece's BPE), t5 (its unigrams), or bert (WordPiece without case).</summary>
    /// <param name="source">What error messages call the file.</param>
    /// <exception cref="UserErrorException">The metadata is incomplete or contradicts itself, or its kind of tokenizer is not known.</exception>
    public static Tokenizer FromGguf(GgufTokenizer metadata, string source)
    {
        ArgumentNullException.ThrowIfNull(metadata);
        var builder = new GgufTokenizerBuilder(metadata, source);
        return new Tokenizer(builder.BuildParts(), builder.BuildSettings());
    }

    /// <summary>The ids of a text.</summary>
    /// <param name="text">Any text; lone surrogates count as U+FFFD.</param>
    /// <param name="addSpecialTokens">Puts the tokens around it that the post-processor asks for, such as bos. A rendered chat has its own.</param>
    /// <exception cref="UserErrorException">A word or a character is unknown to a vocabulary without an unknown token, or an expression of the file takes too long on the text.</exception>
    public int[] Encode(string text, bool addSpecialTokens)
    {
        ArgumentNullException.ThrowIfNull(text);
        Working working = Rent();
        List<int> output = working.Output;
        output.Clear();
        if (addSpecialTokens)
            output.AddRange(_parts.Prefix);
        EncodeText(CodePoints.Repair(text), working);
        if (addSpecialTokens)
            output.AddRange(_parts.Suffix);
        int[] ids = [.. output];
        Return(working);
        return ids;
    }

    private Working Rent() => Interlocked.Exchange(ref _lastIdle, null) ?? (_idle.TryTake(out Working? working) ? working : new Working());

    private void Return(Working working)
    {
        if (Interlocked.Exchange(ref _lastIdle, working) is { } other)
            _idle.Add(other);
    }

    /// <inheritdoc cref="Encode(string, bool)"/>
    public int[] Encode(ReadOnlySpan<char> text, bool addSpecialTokens) => Encode(text.ToString(), addSpecialTokens);

    /// <summary>The text of ids. Ids without a token add nothing.</summary>
    /// <param name="skipSpecialTokens">Leaves out the tokens that the file calls special.</param>
    public string Decode(ReadOnlySpan<int> ids, bool skipSpecialTokens)
    {
        if (_decodesBytes)
            return DecodeBytes(ids, skipSpecialTokens);
        List<string> tokens = new(ids.Length);
        foreach (int id in ids)
            if (DecodedToken(id, skipSpecialTokens) is { } token)
                tokens.Add(_replaced is null ? token : _replaced[id] ??= ((ReplaceDecoder)_parts.Decoders![0]).Rewrite(token));
        if (_parts.Decoders is null)
            return string.Join(' ', tokens);
        for (int i = _replaced is null ? 0 : 1; i < _parts.Decoders.Count; i++)
            _parts.Decoders[i].Decode(tokens);
        return string.Concat(tokens);
    }

    /// <summary>What <see cref="ByteLevelDecoder"/> gives, from the vocabulary's bytes without strings between.</summary>
    private string DecodeBytes(ReadOnlySpan<int> ids, bool skipSpecialTokens)
    {
        Working working = Rent();
        byte[] bytes = working.Scratch.Bytes;
        int count = 0;
        foreach (int id in ids)
        {
            ReadOnlySpan<byte> token = _ids.AddedUtf8(id, out bool special);
            if (special && skipSpecialTokens)
                continue;
            if (token.IsEmpty)
                token = _parts.Vocabulary.Utf8Of(id);
            if (bytes.Length - count < token.Length)
                Array.Resize(ref bytes, Math.Max(count + token.Length, bytes.Length * 2));
            count += ByteAlphabet.Unmap(token, bytes.AsSpan(count));
        }
        working.Scratch.Bytes = bytes;
        string text = Encoding.UTF8.GetString(bytes, 0, count);
        Return(working);
        return text;
    }

    /// <summary>Decoding for ids that come one by one.</summary>
    /// <param name="skipSpecialTokens">Leaves out the tokens that the file calls special.</param>
    public DecodeStream CreateStream(bool skipSpecialTokens) => new(this, skipSpecialTokens);

    /// <summary>The token of an id as the vocabulary writes it (bytes as stand-ins, U+2581 for a space); null when there is none.</summary>
    public string? IdToToken(int id) => _ids.TryGetToken(id, out string? token) ? token : null;

    /// <summary>The id of a token as the vocabulary writes it; null when there is none.</summary>
    public int? TokenToId(string token)
    {
        ArgumentNullException.ThrowIfNull(token);
        return _ids.TryGetId(token, out int id) ? id : null;
    }

    /// <summary>True for the tokens that decoding leaves out when it skips special tokens.</summary>
    public bool IsSpecial(int id) => _ids.IsSpecial(id);

    /// <summary>The token of an id, or null when it adds nothing to the text.</summary>
    internal string? DecodedToken(int id, bool skipSpecialTokens) =>
        skipSpecialTokens && _ids.IsSpecial(id) ? null : IdToToken(id);

    /// <summary>Fresh steps that decode a stream, not yet connected.</summary>
    internal StreamStep[] CreateSteps()
    {
        if (_parts.Decoders is null)
            return [new EachStep(static (token, index) => index == 0 ? token : " " + token)];
        var steps = new StreamStep[_parts.Decoders.Count];
        bool joined = false;
        for (int i = 0; i < steps.Length; i++)
        {
            steps[i] = _parts.Decoders[i].Stream(joined);
            joined |= _parts.Decoders[i].Joins;
        }
        return steps;
    }

    /// <summary>The id of a configured special token.</summary>
    private int? Named(string name)
    {
        if (!SpecialTokenTexts.TryGetValue(name, out string? text))
            return null;
        if (_ids.TryGetId(text, out int id))
            return id;
        // Without pad and unk a model still works; a text that can neither begin nor end as it should is a fault.
        return name is "pad_token" or "unk_token" ? null
            : throw _parts.Vocabulary.Error($"the {name} {JsonSection.Quote(text)} of the configuration is not in the vocabulary");
    }

    private static byte[] ReadFile(string file)
    {
        try
        {
            return File.ReadAllBytes(file);
        }
        catch (Exception e) when (e is IOException or UnauthorizedAccessException)
        {
            throw new UserErrorException($"{file}: cannot be read: {e.Message}", e);
        }
    }

    private static string DecodeText(byte[] bytes, string file)
    {
        try
        {
            return new UTF8Encoding(false, throwOnInvalidBytes: true).GetString(bytes);
        }
        catch (DecoderFallbackException e)
        {
            throw new UserErrorException($"{file}: is no UTF-8 text: {e.Message}", e);
        }
    }

    /// <summary>Memory for one encoding at a time.</summary>
    private sealed class Working
    {
        public readonly ModelScratch Scratch = new();
        public readonly PieceCache Cache = new();
        public readonly List<int> Output = [];
        public List<Piece> Pieces = [];
        public List<Piece> Next = [];
    }

    /// <summary>Cuts the raw added tokens out; what lies between is normalized piece by piece, and searched for the others.</summary>
    private void EncodeText(string text, Working working)
    {
        int taken = 0;
        int from = 0;
        while (_rawTokens.Find(text, from, taken, out int start, out int end, out from) is { } token)
        {
            if (taken < start)
                EncodeSegment(text[taken..start], taken == 0, working);
            working.Output.Add(token.Id);
            taken = end;
        }
        if (taken < text.Length)
            EncodeSegment(taken == 0 ? text : text[taken..], taken == 0, working);
    }

    private void EncodeSegment(string segment, bool atStart, Working working)
    {
        string text = _parts.Normalizer?.Normalize(segment, ref atStart) ?? segment;
        int taken = 0;
        int from = 0;
        while (_normalizedTokens.Find(text, from, taken, out int start, out int end, out from) is { } token)
        {
            if (taken < start)
                EncodePlain(new Piece(text, taken, start - taken, atStart && taken == 0), working);
            working.Output.Add(token.Id);
            taken = end;
        }
        if (taken < text.Length)
            EncodePlain(new Piece(text, taken, text.Length - taken, atStart && taken == 0), working);
    }

    private void EncodePlain(Piece text, Working working)
    {
        working.Pieces.Clear();
        working.Pieces.Add(text);
        foreach (PreTokenizer step in _preTokenizers)
        {
            working.Next.Clear();
            foreach (Piece piece in CollectionsMarshal.AsSpan(working.Pieces))
                step.Split(piece, working.Next);
            (working.Pieces, working.Next) = (working.Next, working.Pieces);
        }
        foreach (Piece piece in CollectionsMarshal.AsSpan(working.Pieces))
            EncodePiece(piece.Span, working);
    }

    private void EncodePiece(ReadOnlySpan<char> piece, Working working)
    {
        while (!piece.IsEmpty)
        {
            int end = _mapsBytes || _bpe is null ? piece.Length : _bpe.NextCut(piece);
            EncodeWord(piece[..end], working);
            piece = piece[end..];
        }
    }

    private void EncodeWord(ReadOnlySpan<char> word, Working working)
    {
        List<int> output = working.Output;
        bool cacheable = word.Length <= PieceCache.LongestPiece;
        uint hash = 0;
        if (cacheable && working.Cache.TryAppend(word, output, out hash))
            return;
        int before = output.Count;
        ModelScratch scratch = working.Scratch;
        if (_mapsBytes && _bpe is { SpellsBytes: true })
        {
            _bpe.EncodeBytes(word, scratch, output);
        }
        else if (_mapsBytes)
        {
            if (scratch.Mapped.Length < word.Length * 3)
                scratch.Mapped = new char[word.Length * 3];
            _parts.Model.Encode(scratch.Mapped.AsSpan(0, ByteAlphabet.Map(word, scratch.Mapped)), scratch, output);
        }
        else
        {
            _parts.Model.Encode(word, scratch, output);
        }
        if (cacheable)
            working.Cache.Add(word, hash, CollectionsMarshal.AsSpan(output)[before..]);
    }
}
