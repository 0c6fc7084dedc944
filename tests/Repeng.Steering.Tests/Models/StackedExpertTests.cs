using System.Text.Json.Nodes;
using Repeng.Autograd;
using Repeng.Kernels;
using Repeng.Runtime;
using Repeng.Runtime.Formats;
using Repeng.Steering.Adapters;
using Repeng.Steering.Adapters.Peft;
using Repeng.Steering.Models;
using Repeng.Testing;

namespace Repeng.Steering.Tests.Models;

/// <summary>Checkpoints that hold each projection of all experts as one tensor: gpt-oss's layout, its MXFP4 blocks, transformers 5; and what is wrong with checkpoints of experts.</summary>
public sealed class StackedExpertTests : IDisposable
{
    private const int Experts = 3, Width = 64, Hidden = 32;
    private static readonly float[] s_fp4 = [0, 0.5f, 1, 1.5f, 2, 3, 4, 6, -0f, -0.5f, -1, -1.5f, -2, -3, -4, -6];
    private readonly Device _device = Device.Cpu(2);
    private readonly string _folder = Directory.CreateTempSubdirectory("repeng-stacked").FullName;
    private readonly TokenBatch _tokens = TokenBatch.Pad([[3, 7, 11, 2, 19, 30, 8], [5, 9, 1, 33]], 0);

    public void Dispose()
    {
        Directory.Delete(_folder, recursive: true);
        _device.Dispose();
    }

    [Theory]
    [InlineData("gate_up_proj", 4_000_000_000, 0, 8)]
    [InlineData("gate_up_proj", 70_000, 4, 1)]
    [InlineData("gate_up_proj", 2, 4, 0)]
    [InlineData("gate_up_proj", 0, 4, 4)]
    [InlineData("down_proj", 0, 5_000_000_000, 4)]
    [InlineData("gate_up_proj", 2, 4, 5)]
    public void Stacks_that_cannot_be_taken_apart_are_refused(string projection, long experts, long inputs, long outputs)
    {
        var config = (JsonObject)JsonNode.Parse(GptOssConfig)!;
        string path = Path.Combine(_folder, "model.safetensors");
        var writer = new SafetensorsWriter();
        writer.Add($"model.layers.0.mlp.experts.{projection}", [experts, inputs, outputs], new float[experts * inputs * outputs]);
        writer.Write(path);
        using var file = SafetensorsFile.Open(path);
        string message = Assert.Throws<UserErrorException>(() => GgufModelWriter.Write(Path.Combine(_folder, "x.gguf"), config, "config.json", file, new GgufModelWriter.Options { Type = "F32" })).Message;
        Assert.Contains(projection, message, StringComparison.Ordinal);
        Assert.Contains($"[{experts}, {inputs}, {outputs}]", message, StringComparison.Ordinal);
        Assert.Contains(outputs == 5 ? "even" : "experts of", message, StringComparison.Ordinal);
        Assert.False(File.Exists(Path.Combine(_folder, "x.gguf")));
    }

    [Fact]
    public void Mxfp4_blocks_give_the_bits_of_the_numbers_that_they_stand_for()
    {
        var random = new Random(4);
        Dictionary<string, (long[] Shape, Array Values)> plain = GptOss(random), packed = new(plain);
        Pack(random, plain, packed);
        using DecoderModel a = Load(GptOssConfig, plain), b = Load(GptOssConfig, packed), wide = Load(GptOssConfig, packed, WeightType.F32);
        Assert.Equal(Logits(a), Logits(b));
        Assert.Equal(Logits(a), Logits(wide));
        Tensor stack = b.Parameters["model.layers.1.mlp.experts.down_proj"];
        Assert.Equal(DType.Packed, stack.Type);
        Assert.Equal(Experts * Hidden * Width / 32 * 17, stack.Data.Bytes);
        foreach (string name in a.Parameters.Keys)
            Assert.Equal(WeightReader.ToHost(a.Parameters[name]), WeightReader.ToHost(b.Parameters[name]));
        float[][] learned = Gradients(a), packedToo = Gradients(b);
        Assert.All(learned, g => Assert.Contains(g, v => v != 0));
        for (int i = 0; i < learned.Length; i++)
            Close.To(1e-5, packedToo[i], learned[i], $"gradient {i}");

        float[][] Gradients(DecoderModel model)
        {
            using PeftAdapter adapter = PeftFactory.Create(model, new PeftSettings { Kind = "lora", Rank = 2, TargetModules = @".*(q_proj|\.experts\..*)", InitNoise = 0.2 });
            using var tape = new Tape(_device);
            Tensor h = model.Forward(new ForwardContext(tape, _tokens) { Adapter = adapter.Pass(tape, [1, -0.5f], _tokens.Length) });
            tape.Backward(tape.Sum(tape.Multiply(h, h)));
            return [.. adapter.Parameters.Where(p => !p.Grad.IsEmpty).Select(p => p.GradToArray())];
        }
    }

    [Fact]
    public void Mxfp4_experts_go_into_gguf_bit_for_bit()
    {
        var random = new Random(8);
        Dictionary<string, (long[] Shape, Array Values)> plain = GptOss(random), packed = new(plain);
        Pack(random, plain, packed);
        JsonObject config = JsonNode.Parse(GptOssConfig)!.AsObject();
        using (SafetensorsFile source = Write(packed))
            Assert.Contains("swiglu_limit': is 1.5, llama.cpp's gpt-oss has 7", Assert.Throws<UserErrorException>(() =>
                GgufModelWriter.Write(Path.Combine(_folder, "limit.gguf"), config, "config.json", source, new GgufModelWriter.Options { Type = "F32" })).Message);
        config["swiglu_limit"] = 7;
        using DecoderModel folder = Load(config.ToJsonString(), packed);
        float[] wanted = Logits(folder);
        foreach (bool keep in new[] { true, false })
        {
            string path = Path.Combine(_folder, $"{keep}.gguf");
            using (SafetensorsFile source = Write(packed))
                GgufModelWriter.Write(path, config, "config.json", source, new GgufModelWriter.Options { Type = "F32", KeepMxfp4 = keep });
            using GgufModel gguf = GgufModel.Open(path);
            Assert.All(gguf.File.Names.Where(n => n.Contains("_exps.weight", StringComparison.Ordinal)), n => Assert.Equal(keep ? "MXFP4" : "F32", gguf.File.Info(n).Type));
            Assert.Equal(keep ? 38 : 0, gguf.File.Metadata.Integer("general.file_type"));
            using DecoderModel model = ModelLoader.Load(_device, ModelBundle.ConfigOf(gguf, path), gguf.Tensors);
            foreach (string module in new[] { "gate_proj", "up_proj", "down_proj" })
                Assert.Equal(WeightReader.ToHost(folder.Linears[$"model.layers.1.mlp.experts.2.{module}"].Weight), WeightReader.ToHost(model.Linears[$"model.layers.1.mlp.experts.2.{module}"].Weight));
            Close.To(2e-5, Logits(model), wanted, "logits");
            if (!keep)
                continue;
            // From GGUF to GGUF they keep their bits too.
            string again = Path.Combine(_folder, "again.gguf");
            GgufModelWriter.Write(again, gguf.Config, path, gguf.Tensors, new GgufModelWriter.Options { Type = "F32", KeepMxfp4 = true, FromGguf = true });
            using GgufFile second = GgufFile.Open(again);
            foreach (string name in gguf.File.Names)
                Assert.Equal(gguf.File.ReadBytes(name), second.ReadBytes(name));
        }
        packed["model.layers.0.mlp.experts.down_proj_scales"] = ([Experts, Hidden, 1], new byte[Experts * Hidden]);
        using SafetensorsFile damaged = Write(packed);
        Assert.Contains("its scales [3, 32, 1]; [experts, out, in / 32, 16] and", Assert.Throws<UserErrorException>(() =>
            GgufModelWriter.Write(Path.Combine(_folder, "damaged.gguf"), config, "config.json", damaged, new GgufModelWriter.Options { Type = "F32", KeepMxfp4 = true })).Message);
        Assert.False(File.Exists(Path.Combine(_folder, "damaged.gguf")));
    }

    [Fact]
    public void A_stack_that_no_array_holds_is_not_merged_and_says_what_to_do()
    {
        // 160 experts of 2 · 2048 × 4096 values, by their shapes alone.
        JsonObject config = JsonNode.Parse(GptOssConfig)!.AsObject();
        (config["num_local_experts"], config["intermediate_size"], config["hidden_size"]) = (160, 2048, 4096);
        var shapes = new Dictionary<string, long[]>();
        foreach ((string name, (long[] shape, _)) in GptOss(new Random(9)))
            shapes[name] = name.Contains(".router.", StringComparison.Ordinal) || name.Contains(".experts.", StringComparison.Ordinal)
                ? [.. shape.Select(s => s switch { Experts => 160, Hidden => 4096L, Width => 2048, 2 * Width => 4096, _ => s })]
                : name.Contains("_proj.", StringComparison.Ordinal) ? name.Contains("o_proj.w", StringComparison.Ordinal) ? [4096, 32] : name.EndsWith("o_proj.bias", StringComparison.Ordinal) ? [4096] : shape.Length == 2 ? [shape[0], 4096] : shape
                : [.. shape.Select(s => s == Hidden ? 4096L : s)];
        using var dry = new Device(new Kernels.Dry.DryBackend());
        using DecoderModel model = ModelLoader.Load(dry, Families.Read(new ConfigReader(config, "test")), new ShapesOnly(shapes));
        using PeftAdapter adapter = PeftFactory.Create(model, new PeftSettings { Kind = "lora", Rank = 2, TargetModules = @".*q_proj" });
        UserErrorException e = Assert.Throws<UserErrorException>(() => MergedWeights.Of(adapter, 1));
        Assert.Contains($"mlp.experts.gate_up_proj has {160L * 4096 * 4096} values; at most {Array.MaxLength} can be decoded or merged at a time", e.Message);
        Assert.Contains("--to lora", e.Message);
    }

    [Theory]
    [InlineData(false)]
    [InlineData(true)]
    public void Adapters_of_stacked_experts_are_those_of_the_merged_weights(bool svd)
    {
        using DecoderModel model = Load(GptOssConfig, GptOss(new Random(5)));
        const string Targets = @"model\.layers\.\d\.mlp\.experts\.[02]\.(gate_proj|up_proj|down_proj)";
        using IAdapter adapter = svd
            ? SvdAdapter.Create(model, new SvdAdapterConfig { Rank = 4, TargetModules = Targets, InitRotation = 0.4 })
            : PeftFactory.Create(model, new PeftSettings { Kind = "lora", Rank = 3, TargetModules = Targets, InitNoise = 0.2 });
        Assert.Equal(2 * 2 * 3, adapter.Modules.Count);
        using DecoderModel merged = MergedWeights.Load(adapter, 0.8f);
        Assert.Equal(model.Parameters.Keys.Order(StringComparer.Ordinal), merged.Parameters.Keys.Order(StringComparer.Ordinal));
        float[] expected = Logits(merged), actual = Logits(model, adapter, 0.8f);
        Assert.True(Close.Error(actual, Logits(model)) > 1e-3, "the adapter does something");
        Close.To(2e-5, actual, expected, "logits");
        // Written and read again, it is a checkpoint of the same family.
        string path = Path.Combine(_folder, "merged.safetensors");
        MergedWeights.Write(adapter, 0.8f, path);
        using ITensorSource written = SafetensorsFile.Open(path);
        Assert.Equal([Experts, Hidden, 2 * Width], written.Info("model.layers.0.mlp.experts.gate_up_proj").Shape);
        using DecoderModel again = ModelLoader.Load(_device, Families.Read(new ConfigReader(JsonNode.Parse(GptOssConfig)!.AsObject(), "test")), written);
        Assert.Equal(expected, Logits(again));
    }

    [Fact]
    public void Gradients_of_a_stack_are_those_of_its_parts_in_the_layout_of_the_file()
    {
        using DecoderModel model = Load(GptOssConfig, GptOss(new Random(6)));
        model.RequireGradients(true);
        using var tape = new Tape(_device);
        Tensor h = model.Forward(new ForwardContext(tape, _tokens));
        tape.Backward(tape.Sum(tape.Multiply(h, h)));
        const string name = "model.layers.1.mlp.experts.gate_up_proj";
        float[] file = model.FileLayouts[name].ToFile<float>(model.Parameters[name].GradToArray());
        for (int e = 0; e < Experts; e++)
        {
            float[] up = model.Linears[$"model.layers.1.mlp.experts.{e}.up_proj"].Weight.GradToArray();
            for (int o = 0; o < Width; o++)
                for (int i = 0; i < Hidden; i++)
                    Assert.Equal(up[o * Hidden + i], file[(e * Hidden + i) * 2 * Width + 2 * o + 1]);
        }
        Assert.Contains(file, v => v != 0);
    }

    [Fact]
    public void Stacks_of_transformers_5_give_the_bits_of_experts_stored_one_by_one()
    {
        using DecoderModel one = TinyDecoder.Load(_device, layers: 3, experts: true);
        var tensors = new Dictionary<string, (long[], Array)>();
        foreach ((string name, Tensor t) in one.Parameters.Where(p => !p.Key.Contains(".experts.")))
            tensors[name] = ([.. t.Shape.Select(s => (long)s)], t.ToArray());
        for (int layer = 0; layer < 3; layer++)
        {
            string list = $"model.layers.{layer}.mlp.experts.";
            float[] Of(int e, string n) => one.Parameters[$"{list}{e}.{n}.weight"].ToArray();
            tensors[list + "gate_up_proj"] = ([6, 24, 16], Enumerable.Range(0, 6).SelectMany(e => Of(e, "gate_proj").Concat(Of(e, "up_proj"))).ToArray());
            tensors[list + "down_proj"] = ([6, 16, 12], Enumerable.Range(0, 6).SelectMany(e => Of(e, "down_proj")).ToArray());
        }
        using DecoderModel stacked = ModelLoader.Load(_device, one.Config, Write(tensors));
        Assert.Equal(Logits(one), Logits(stacked));
        Assert.Equal(one.Linears.Keys, stacked.Linears.Keys);
    }

    public static IEnumerable<TheoryDataRow<string, string>> Damages =>
    [
        new("an expert's tensor missing", "holds 4 in a row, and tensor 'model.layers.1.mlp.experts.4.up_proj.weight' is missing"),
        new("fewer experts than the configuration", "the configuration has 6 experts a layer, model.layers.0.mlp.experts holds 5 in a row"),
        new("more experts than the configuration", "has 5 experts a layer, model.layers.0.mlp.experts holds 6 in a row, and there are more experts than that"),
        new("router of another shape", "tensor 'model.layers.0.mlp.gate.weight' has shape [7, 16], the model's configuration asks for [6, 16]"),
        new("more experts a token than there are", "a token is to go through 9 experts (num_experts_per_tok), there are 6"),
        new("head missing", "tensor 'lm_head.weight' is missing, and the configuration does not tie the head"),
        new("tied embedding missing", "tensor 'model.embed_tokens.weight' is missing, and the head is tied to it"),
        new("a layer without experts that does not exist", "mlp_only_layers names layer 5, there are layers 0 … 1"),
        new("not a finite weight", "weight model.layers.1.mlp.experts.3.down_proj.weight holds a value that is not finite at element 7"),
    ];

    [Theory]
    [MemberData(nameof(Damages))]
    public void What_is_wrong_with_a_checkpoint_of_experts_is_said_once(string damage, string says)
    {
        JsonObject config = JsonNode.Parse("""
            {"model_type":"olmoe","hidden_size":16,"intermediate_size":12,"num_hidden_layers":2,"num_attention_heads":2,"vocab_size":31,"max_position_embeddings":64,"num_experts":6,"num_experts_per_tok":2}
            """)!.AsObject();
        using var checkpoint = new TinyCheckpoint(config, 1);
        void Router()
        {
            checkpoint.Shapes["model.layers.0.mlp.gate.weight"] = [7, 16];
            checkpoint.Weights["model.layers.0.mlp.gate.weight"] = new double[7 * 16];
        }
        void Remove(string part)
        {
            foreach (string name in checkpoint.Weights.Keys.Where(n => n.Contains(part, StringComparison.Ordinal)).ToArray())
                checkpoint.Weights.Remove(name);
        }
        Action harm = damage switch
        {
            "an expert's tensor missing" => () => Remove("layers.1.mlp.experts.4.up_proj"),
            "fewer experts than the configuration" => () => Remove("experts.5."),
            "more experts than the configuration" => () => config["num_experts"] = 5,
            "router of another shape" => Router,
            "more experts a token than there are" => () => config["num_experts_per_tok"] = 9,
            "head missing" => () => Remove("lm_head"),
            "tied embedding missing" => () => (config["tie_word_embeddings"], _) = (true, checkpoint.Weights.Remove("model.embed_tokens.weight")),
            "a layer without experts that does not exist" => () => (config["model_type"], config["moe_intermediate_size"], config["mlp_only_layers"]) = ("qwen3_moe", 12, new JsonArray(5)),
            _ => () => checkpoint.Weights["model.layers.1.mlp.experts.3.down_proj.weight"][7] = double.NaN,
        };
        harm();
        long before = _device.Pool.InUse;
        var error = Assert.Throws<UserErrorException>(() => checkpoint.Load(_device).Dispose());
        Assert.Contains(says, error.Message, StringComparison.Ordinal);
        Assert.DoesNotContain('\n', error.Message);
        Assert.Equal(before, _device.Pool.InUse);
    }

    [Fact]
    public void Blocks_of_another_size_or_type_are_refused()
    {
        Dictionary<string, (long[] Shape, Array Values)> tensors = GptOss(new Random(7));
        string path = "model.layers.0.mlp.experts.gate_up_proj";
        tensors.Remove(path);
        tensors[path + "_blocks"] = ([Experts, 2 * Width, 1, 15], new byte[Experts * 2 * Width * 15]);
        tensors[path + "_scales"] = ([Experts, 2 * Width, 1], new byte[Experts * 2 * Width]);
        Assert.Contains("_blocks' has shape [3, 128, 1, 15], the model's configuration asks for [3, 128, 1, 16]", Assert.Throws<UserErrorException>(() => Load(GptOssConfig, tensors).Dispose()).Message);
        tensors[path + "_blocks"] = ([Experts, 2 * Width, 1, 16], new float[Experts * 2 * Width * 16]);
        Assert.Contains("stored as F32, MXFP4 is bytes", Assert.Throws<UserErrorException>(() => Load(GptOssConfig, tensors).Dispose()).Message);
        tensors[path + "_blocks"] = ([Experts, 2 * Width, 1, 16], new byte[Experts * 2 * Width * 16]);
        tensors.Remove(path + "_scales");
        Assert.Contains(path + "_scales", Assert.Throws<UserErrorException>(() => Load(GptOssConfig, tensors).Dispose()).Message);
        Assert.Equal(0, _device.Pool.InUse);
    }

    private static string GptOssConfig => $$"""
        {"model_type":"gpt_oss","hidden_size":{{Hidden}},"intermediate_size":{{Width}},"num_hidden_layers":2,"num_attention_heads":2,"num_key_value_heads":1,"head_dim":16,"vocab_size":40,"max_position_embeddings":64,
         "num_local_experts":{{Experts}},"num_experts_per_tok":2,"sliding_window":4,"rms_norm_eps":1e-5,"rope_theta":1000,"swiglu_limit":1.5}
        """;

    private static Dictionary<string, (long[] Shape, Array Values)> GptOss(Random random)
    {
        var tensors = new Dictionary<string, (long[], Array)>();
        void Add(string name, double spread, params long[] shape) =>
            tensors[name] = (shape, Enumerable.Range(0, (int)shape.Aggregate(1L, (a, b) => a * b)).Select(_ => (float)(spread * (2 * random.NextDouble() - 1))).ToArray());
        Add("model.embed_tokens.weight", 1, 40, Hidden);
        Add("lm_head.weight", 0.5, 40, Hidden);
        Add("model.norm.weight", 1, Hidden);
        for (int i = 0; i < 2; i++)
        {
            string p = $"model.layers.{i}.";
            Add(p + "input_layernorm.weight", 1, Hidden);
            Add(p + "post_attention_layernorm.weight", 1, Hidden);
            foreach ((string n, int outputs) in new[] { ("q", 32), ("k", 16), ("v", 16), ("o", 32) })
            {
                Add($"{p}self_attn.{n}_proj.weight", 0.4, outputs, 32);
                Add($"{p}self_attn.{n}_proj.bias", 0.2, outputs);
            }
            Add(p + "self_attn.sinks", 1, 2);
            Add(p + "mlp.router.weight", 0.5, Experts, Hidden);
            Add(p + "mlp.router.bias", 0.5, Experts);
            Add(p + "mlp.experts.gate_up_proj", 0.4, Experts, Hidden, 2 * Width);
            Add(p + "mlp.experts.gate_up_proj_bias", 0.3, Experts, 2 * Width);
            Add(p + "mlp.experts.down_proj", 0.4, Experts, Width, Hidden);
            Add(p + "mlp.experts.down_proj_bias", 0.3, Experts, Hidden);
        }
        return tensors;
    }

    // Random blocks for the stacks of packed, and the numbers that they stand for in plain.
    private static void Pack(Random random, Dictionary<string, (long[] Shape, Array Values)> plain, Dictionary<string, (long[] Shape, Array Values)> packed)
    {
        foreach ((string name, int outputs, int inputs) in new[] { ("gate_up_proj", 2 * Width, Hidden), ("down_proj", Hidden, Width) })
            for (int layer = 0; layer < 2; layer++)
            {
                string path = $"model.layers.{layer}.mlp.experts.{name}";
                byte[] blocks = new byte[Experts * outputs * inputs / 2], scales = new byte[Experts * outputs * inputs / 32];
                random.NextBytes(blocks);
                for (int i = 0; i < scales.Length; i++)
                    scales[i] = (byte)random.Next(122, 127);
                // As transformers reads them: pairs of values low half first, then transposed to [experts, in, out].
                var values = new float[Experts * outputs * inputs];
                for (int e = 0; e < Experts; e++)
                    for (int o = 0; o < outputs; o++)
                        for (int i = 0; i < inputs; i++)
                        {
                            int at = (e * outputs + o) * inputs + i;
                            values[(e * inputs + i) * outputs + o] = s_fp4[i % 2 == 0 ? blocks[at / 2] & 15 : blocks[at / 2] >> 4] * MathF.Pow(2, scales[at / 32] - 127);
                        }
                plain[path] = ([Experts, inputs, outputs], values);
                packed.Remove(path);
                packed[path + "_blocks"] = ([Experts, outputs, inputs / 32, 16], blocks);
                packed[path + "_scales"] = ([Experts, outputs, inputs / 32], scales);
            }
    }

    private SafetensorsFile Write(Dictionary<string, (long[] Shape, Array Values)> tensors)
    {
        var writer = new SafetensorsWriter();
        foreach ((string name, (long[] shape, Array values)) in tensors)
        {
            if (values is float[] floats)
                writer.Add(name, shape, floats);
            else
                writer.AddStreamed(name, "U8", shape, s => s.Write((byte[])values));
        }
        string path = Path.Combine(_folder, $"{Guid.NewGuid():N}.safetensors");
        writer.Write(path);
        return SafetensorsFile.Open(path);
    }

    private DecoderModel Load(string config, Dictionary<string, (long[] Shape, Array Values)> tensors, WeightType weights = WeightType.AsStored)
    {
        using SafetensorsFile source = Write(tensors);
        return ModelLoader.Load(_device, Families.Read(new ConfigReader(JsonNode.Parse(config)!.AsObject(), "test")), source, weights);
    }

    private float[] Logits(DecoderModel model, IAdapter? adapter = null, float c = 0)
    {
        using var tape = new Tape(_device, record: false);
        return model.Logits(tape, model.Forward(new ForwardContext(tape, _tokens) { Adapter = adapter?.Pass(tape, [c, c], _tokens.Length) })).ToArray();
    }

    /// <summary>Tensors of which nothing but the shape is there.</summary>
    private sealed unsafe class ShapesOnly(Dictionary<string, long[]> shapes) : ITensorSource
    {
        public string Description => "shapes";

        public IReadOnlyList<string> Names => [.. shapes.Keys];

        public bool TryGetInfo(string name, out TensorInfo info)
        {
            bool found = shapes.TryGetValue(name, out long[]? shape);
            long elements = found ? shape!.Aggregate(1L, (a, b) => a * b) : 0;
            info = found ? new TensorInfo(name, shape!, "BF16", elements, 2 * elements) : default;
            return found;
        }

        public void ReadF32(string name, long firstRow, long rows, float* destination) => throw new InvalidOperationException(name);

        public void ReadRaw(string name, long firstRow, long rows, byte* destination) => throw new InvalidOperationException(name);

        public bool TryMap(string name, out MappedBytes bytes)
        {
            bytes = default;
            return false;
        }

        public void Dispose()
        {
        }
    }
}
