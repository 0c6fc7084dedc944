using System.Text.Json.Nodes;
using Repeng.Kernels;
using Repeng.Kernels.Quantised;

namespace Repeng.Runtime.Formats;

/// <summary>
/// Writes a whole model as llama.cpp's converter would: names, order of rows, metadata and tokenizer. Tensors are read,
/// turned and quantised a few rows at a time while the file is written.
/// </summary>
public sealed unsafe class GgufModelWriter
{
    // Rows that are read, turned and encoded at a time.
    private const long ChunkValues = 1 << 22;

    private readonly JsonFields _config;
    private readonly GgufFamily _family;
    private readonly ITensorSource _source;
    private readonly bool _asGguf;
    private readonly long _headDim;
    private readonly long _heads;
    private readonly long _keyValueHeads;

    private GgufModelWriter(JsonFields config, GgufFamily family, ITensorSource source, bool asGguf)
    {
        (_config, _family, _source, _asGguf) = (config, family, source, asGguf);
        _heads = config.OptionalInteger("num_attention_heads") ?? 0;
        _keyValueHeads = config.OptionalInteger("num_key_value_heads") ?? _heads;
        _headDim = config.OptionalInteger("head_dim") ?? (_heads > 0 ? config.Integer("hidden_size") / _heads : 0);
    }

    /// <summary>What is written.</summary>
    public sealed record Options
    {
        /// <summary>Type of matrices: F32, F16, BF16 or a quantised type that can be encoded. Vectors and norms stay F32.</summary>
        public required string Type { get; init; }

        /// <summary>Experts stored in MXFP4 keep their bits, whatever other matrices become; llama.cpp's converter does so.</summary>
        public bool KeepMxfp4 { get; init; }

        /// <summary>general.name, or null.</summary>
        public string? Name { get; init; }

        /// <summary>Tokenizer of the model; without one llama.cpp does not load the file.</summary>
        public GgufTokenizer? Tokenizer { get; init; }

        /// <summary>The tensors come from <see cref="GgufModel"/>: norms and linear weights are as llama.cpp has them already.</summary>
        public bool FromGguf { get; init; }

        /// <summary>Hears of what llama.cpp will do otherwise, and of matrices whose rows are no multiple of a block.</summary>
        public Action<string>? Warn { get; init; }

        /// <summary>Hears how many of how many tensors are written.</summary>
        public Action<int, int>? Progress { get; init; }
    }

    /// <summary>Types that a model can be written in.</summary>
    public static IReadOnlyList<string> Types { get; } = [.. BlockType.All.Where(t => t.CanEncode).Select(t => t.Name)];

    /// <summary>Writes the file, at once or not at all.</summary>
    /// <param name="path">File to write.</param>
    /// <param name="config">Fields of config.json; of a model with a text_config that one.</param>
    /// <param name="configSource">What messages call the configuration.</param>
    /// <param name="source">Tensors under their Hugging Face names.</param>
    /// <param name="options">Type, tokenizer and messages.</param>
    /// <exception cref="UserErrorException">The family is unknown to GGUF or its settings cannot be said there, a tensor is missing or too many, a value fits no block.</exception>
    public static void Write(string path, JsonObject config, string configSource, ITensorSource source, Options options)
    {
        var fields = new JsonFields(ConfigDefaults.Fill(config), configSource);
        GgufFamily family = FamilyOf(fields);
        BlockType type = BlockType.Find(options.Type) is { CanEncode: true } known ? known
            : throw new UserErrorException($"type {options.Type} cannot be written; types that can: {string.Join(", ", Types)}");
        var model = new GgufModelWriter(fields, family, UnstackedExperts.Of(source, family), options.FromGguf);
        var writer = new GgufWriter(family.Architecture);
        writer.Add("general.type", "model");
        if (options.Name is not null)
            writer.Add("general.name", options.Name);
        bool packed = options.KeepMxfp4 && model._source.Names.Any(n => model._source.Info(n).Type == Mxfp4.Form);
        writer.Add("general.file_type", FileType(packed ? BlockType.Find(Mxfp4.Form)! : type)).Add("general.quantization_version", 2u);
        GgufConfig.Write(fields, family, writer, options.Warn);
        options.Tokenizer?.WriteTo(writer, fields.Integer("vocab_size"));
        model.AddTensors(writer, type, GgufConfig.QueryScale(fields, family), options);
        writer.Write(path);
    }

    /// <summary>The family that a config.json names; <see cref="UserErrorException"/> where GGUF has none such.</summary>
    internal static GgufFamily FamilyOf(JsonFields config) => GgufFamily.OfModelType(config.Text("model_type"))
        ?? throw config.Error("model_type", $"is {FileErrors.Quote(config.Text("model_type"))}, which cannot be written as GGUF; families that can: {GgufFamily.ModelTypes}");

    private void AddTensors(GgufWriter writer, BlockType type, float queryScale, Options options)
    {
        // Experts of one tensor come together; order is that of the blocks, as llama.cpp's converter has it.
        var parts = new Dictionary<string, SortedDictionary<int, string>>(StringComparer.Ordinal);
        bool tied = _family.AlwaysTied || (_config.OptionalBoolean("tie_word_embeddings") ?? !_source.Contains("lm_head.weight"));
        foreach (string name in _source.Names.Where(n => !IsLeftOut(n, tied)))
        {
            (string gguf, int? expert) = _family.ToGguf(name)
                ?? throw FileErrors.Bad(_source.Description, $"tensor {FileErrors.Quote(name)} is no part of a {_config.Text("model_type")} model as llama.cpp knows it");
            if (!parts.TryGetValue(gguf, out SortedDictionary<int, string>? of))
                parts.Add(gguf, of = []);
            if (!of.TryAdd(expert ?? 0, name))
                throw FileErrors.Bad(_source.Description, $"tensor {FileErrors.Quote(name)} and another both stand for {gguf}");
        }
        string[] order = [.. parts.Keys.OrderBy(Place).ThenBy(n => n, StringComparer.Ordinal)];
        int written = 0;
        foreach (string gguf in order)
        {
            string[] names = [.. parts[gguf].Values];
            if (names.Length != parts[gguf].Keys.Last() + 1)
                throw FileErrors.Bad(_source.Description, $"{gguf} is made of {parts[gguf].Keys.Last() + 1} experts, of which {names.Length} are there");
            bool turned = !_asGguf && IsTransposed(gguf);
            TensorInfo info = _source.Info(names[0]);
            foreach (string name in names)
                _source.Info(name, info.Shape);
            long[] shape = turned ? [info.Shape[1], info.Shape[0]] : info.Shape;
            BlockType stored = options.KeepMxfp4 && info.Type == Mxfp4.Form ? BlockType.Find(Mxfp4.Form)! : TypeOf(gguf, shape, type, options.Warn);
            long[] all = gguf.Contains("_exps.", StringComparison.Ordinal) ? [names.Length, .. shape] : shape;
            float scale = ScalesQueries(_family, gguf) ? queryScale : 1, shift = !_asGguf && GgufFamily.IsNorm(gguf) ? _family.NormShift : 0;
            if (gguf.EndsWith(".weight", StringComparison.Ordinal) && info.Shape.Length is 0 or > 3)
                throw FileErrors.Bad(_source.Description, $"tensor {FileErrors.Quote(names[0])} has shape {info.ShapeText}; a vector or a matrix is needed");
            writer.AddStreamedTensor(gguf, stored.Name, all, stored.SizeOf(info.Elements * names.Length), stream =>
            {
                foreach (string name in names)
                    WriteTensor(stream, name, gguf, stored, turned, scale, shift);
                options.Progress?.Invoke(++written, order.Length);
            });
        }
    }

    // A tied head that is stored all the same, masks that old GPT-2 checkpoints carry, and frequencies that follow from the config; GPT-NeoX has masks too.
    private static bool IsLeftOut(string name, bool tied) => (tied && name == "lm_head.weight")
        || name.EndsWith(".attn.bias", StringComparison.Ordinal) || name.EndsWith(".attention.bias", StringComparison.Ordinal) || name.EndsWith(".masked_bias", StringComparison.Ordinal) || name.EndsWith(".rotary_emb.inv_freq", StringComparison.Ordinal);

    private bool IsTransposed(string gguf) => _family.TransposesLinears && gguf.StartsWith("blk.", StringComparison.Ordinal) && gguf.EndsWith(".weight", StringComparison.Ordinal) && !GgufFamily.IsNorm(gguf);

    /// <summary>Whether a tensor carries the scale of queries: with norms of queries their weights, which are fp32 in every file.</summary>
    internal static bool ScalesQueries(GgufFamily family, string gguf) => gguf.EndsWith(family.Block.Any(b => b.Gguf == "attn_q_norm") ? ".attn_q_norm.weight" : ".attn_q.weight", StringComparison.Ordinal);

    private static int Place(string gguf) => gguf.StartsWith("blk.", StringComparison.Ordinal) ? 1 + int.Parse(gguf.Split('.')[1]) : gguf.StartsWith("output", StringComparison.Ordinal) ? int.MaxValue : 0;

    private static BlockType TypeOf(string gguf, long[] shape, BlockType wanted, Action<string>? warn)
    {
        if (shape.Length < 2 || GgufFamily.IsNorm(gguf) || gguf.StartsWith("position_embd", StringComparison.Ordinal) || gguf.Contains(".ffn_gate_inp", StringComparison.Ordinal) || gguf.EndsWith(".bias", StringComparison.Ordinal))
            return BlockType.Find("F32")!;
        if (shape[^1] % wanted.Elements == 0)
            return wanted;
        warn?.Invoke($"{gguf}: rows of {shape[^1]} are no multiple of {wanted.Name}'s block of {wanted.Elements}; it is written as F16");
        return BlockType.Find("F16")!;
    }

    private void WriteTensor(Stream stream, string name, string gguf, BlockType type, bool turned, float scale, float shift)
    {
        TensorInfo info = _source.Info(name);
        GgufRows? order = _family.RowsOf(gguf, _heads, _keyValueHeads, _headDim);
        if (order is { } o && info.Shape[0] != o.Count)
            throw FileErrors.Bad(_source.Description, $"tensor {FileErrors.Quote(name)} has shape {info.ShapeText}, needed are {o.Text}");
        // A vector is one row, whose elements are moved as the rows of its matrix are.
        bool vector = info.Shape.Length <= 1;
        long width = turned ? info.Shape[0] : vector ? info.Elements : info.RowLength, rows = info.Elements / width;
        float[]? whole = turned || vector ? _source.ReadF32(name) : null;
        long step = Math.Clamp(ChunkValues / width, 1, rows);
        float[] values = new float[step * width];
        byte[] bytes = new byte[type.SizeOf(values.Length)];
        bool copies = whole is null && info.Type == type.Name && scale == 1 && shift == 0;
        for (long first = 0; first < rows; first += step)
        {
            long count = Math.Min(step, rows - first);
            fixed (float* v = values)
            fixed (byte* b = bytes)
            {
                long rowBytes = type.SizeOf(width);
                nint to = (nint)v, encoded = (nint)b;
                if (copies)
                {
                    for (long i = 0; i < count; i++)
                        _source.ReadRaw(name, order?.InSource(first + i) ?? first + i, 1, b + i * rowBytes);
                }
                else
                {
                    if (whole is null && order is null)
                        _source.ReadF32(name, first, count, v);
                    else
                        for (long i = 0; i < count; i++)
                            ReadRow(first + i, v + i * width);
                    Parallel.For(0, count, i =>
                    {
                        float* row = (float*)to + i * width;
                        if (scale != 1 || shift != 0)
                            for (long j = 0; j < width; j++)
                                row[j] = (row[j] + shift) * scale;
                        Encode(type, row, (byte*)encoded + i * rowBytes, width, gguf, first + i);
                    });
                }
            }
            stream.Write(bytes.AsSpan(0, checked((int)(count * type.SizeOf(width)))));
        }

        void ReadRow(long row, float* into)
        {
            if (turned)
                for (long j = 0; j < width; j++)
                    into[j] = whole![j * rows + row];
            else if (vector)
                for (long j = 0; j < width; j++)
                    into[j] = whole![order?.InSource(j) ?? j];
            else
                _source.ReadF32(name, order!.Value.InSource(row), 1, into);
        }
    }

    private static void Encode(BlockType type, float* row, byte* into, long width, string gguf, long index)
    {
        for (long j = 0; j < width; j++)
            if (!float.IsFinite(row[j]))
                throw new UserErrorException($"tensor {gguf}: value {row[j]:R} in row {index} is not finite; the model is damaged");
        type.Encode(row, into, width);
        if (type.Name is "F32" or "BF16")
            return;
        // Scales and values of fp16 end at 65504.
        const float Suspicious = 60000;
        float largest = 0;
        for (long j = 0; j < width; j++)
            largest = Math.Max(largest, Math.Abs(row[j]));
        if (largest < Suspicious)
            return;
        float[] back = new float[width];
        fixed (float* p = back)
            type.Decode(into, p, width);
        if (Array.Exists(back, v => !float.IsFinite(v)))
            throw new UserErrorException($"tensor {gguf}: {largest:R} in row {index} is too large for {type.Name}; write BF16 or F32");
    }

    /// <summary>llama.cpp's number for the type of most tensors.</summary>
    private static uint FileType(BlockType type) => type.Name switch
    {
        "F32" => 0,
        "F16" => 1,
        "Q4_0" => 2,
        "Q4_1" => 3,
        "Q8_0" => 7,
        "Q5_0" => 8,
        "Q5_1" => 9,
        "BF16" => 32,
        "TQ1_0" => 36,
        "TQ2_0" => 37,
        "MXFP4" => 38,
        _ => throw new ArgumentOutOfRangeException(nameof(type), type, "is no type to write"),
    };
}
