using System.Text.Json.Nodes;
using Repeng.Kernels;
using Repeng.Runtime.Formats;

namespace Repeng.Runtime.Tests.Formats;

/// <summary>Translation of a llama GGUF on small files made here.</summary>
public sealed class GgufModelTests : IDisposable
{
    private const int Hidden = 8, Heads = 2, HeadDim = 4, Inner = 6, Vocabulary = 5;

    private readonly TempFolder _folder = new();

    public void Dispose() => _folder.Dispose();

    [Fact]
    public void RowsOfQueryAndKeyGoBackToTheirHalves()
    {
        // By the converter's rule HF row h·(d/2) + i lies in row 2i + h of its head: 0 1 2 3 lie as 0 2 1 3.
        long[] order = [0, 2, 1, 3, 4, 6, 5, 7];
        using GgufModel model = Open(Model(bias: true));
        float[] q = model.Tensors.ReadF32("model.layers.0.self_attn.q_proj.weight");
        float[] stored = model.File.ReadF32("blk.0.attn_q.weight");
        for (int row = 0; row < Hidden; row++)
            Assert.Equal(stored.AsSpan((int)order[row] * Hidden, Hidden), q.AsSpan(row * Hidden, Hidden));
        Assert.Equal([.. order.Select(r => (float)r)], model.Tensors.ReadF32("model.layers.0.self_attn.q_proj.bias"));
        // One key head only.
        Assert.Equal([0f, 2, 1, 3], model.Tensors.ReadF32("model.layers.0.self_attn.k_proj.bias"));
        Assert.Equal([0f, 1, 2, 3], model.Tensors.ReadF32("model.layers.0.self_attn.v_proj.bias"));

        foreach (string name in model.Tensors.Names)
        {
            // Stored bytes in the same order as the values; a view without a copy only where nothing moves.
            byte[] bytes = model.Tensors.ReadBytes(name);
            Assert.Equal(model.Tensors.ReadF32(name), Enumerable.Range(0, bytes.Length / 4).Select(i => BitConverter.ToSingle(bytes, 4 * i)));
            bool mapped = model.Tensors.TryMap(name, out MappedBytes map);
            Assert.Equal(!name.Contains("q_proj") && !name.Contains("k_proj"), mapped);
            if (mapped)
                Assert.True(map.Span.SequenceEqual(bytes));
        }
    }

    [Fact]
    public unsafe void PermutedRowsAreReadAlone()
    {
        using GgufModel model = Open(Model());
        float[] all = model.Tensors.ReadF32("model.layers.0.self_attn.q_proj.weight");
        var rows = new float[3 * Hidden];
        fixed (float* p = rows)
            model.Tensors.ReadF32("model.layers.0.self_attn.q_proj.weight", 2, 3, p);
        Assert.Equal(all[(2 * Hidden)..(5 * Hidden)], rows);
        Assert.Throws<ArgumentOutOfRangeException>(() =>
        {
            fixed (float* p = rows)
                model.Tensors.ReadF32("model.layers.0.self_attn.q_proj.weight", Hidden - 1, 2, p);
        });
    }

    [Fact]
    public void LargePermutedTensorsAreTheSameOnAllThreads()
    {
        const int Large = 1024, Dim = 64;
        var values = new float[Large * Large];
        for (int i = 0; i < values.Length; i++)
            values[i] = i;
        GgufWriter writer = new GgufWriter("llama")
            .Add("llama.block_count", 1u).Add("llama.context_length", 16u).Add("llama.embedding_length", (uint)Large)
            .Add("llama.feed_forward_length", 8u).Add("llama.attention.head_count", (uint)(Large / Dim))
            .Add("llama.attention.layer_norm_rms_epsilon", 1e-5f)
            .AddTensor("token_embd.weight", [1, Large], new float[Large]).AddTensor("blk.0.attn_q.weight", [Large, Large], values);
        using GgufModel model = Open(writer);
        float[] q = model.Tensors.ReadF32("model.layers.0.self_attn.q_proj.weight");
        for (int row = 0; row < Large; row++)
        {
            int head = row / Dim, half = row % Dim / (Dim / 2), i = row % (Dim / 2);
            Assert.Equal((head * Dim + 2 * i + half) * (float)Large, q[row * Large]);
        }
    }

    [Fact]
    public void ConfigHoldsWhatTheFileSays()
    {
        using GgufModel model = Open(Model().Add("llama.rope.freq_base", 12345f).AddTensor("output.weight", [Vocabulary, Hidden], new float[Vocabulary * Hidden])
            .Add("tokenizer.ggml.model", "gpt2").Add("tokenizer.ggml.tokens", ["a", "b", "c", "d", "e"]).Add("tokenizer.ggml.bos_token_id", 1u)
            .Add("tokenizer.ggml.eos_token_id", 4u).Add("tokenizer.ggml.padding_token_id", uint.MaxValue).Add("tokenizer.ggml.add_bos_token", true));
        var expected = JsonNode.Parse($$"""
            {"model_type":"llama","architectures":["LlamaForCausalLM"],"hidden_size":8,"num_hidden_layers":1,"num_attention_heads":2,
             "num_key_value_heads":1,"head_dim":4,"intermediate_size":6,"vocab_size":5,"max_position_embeddings":32,"hidden_act":"silu",
             "rms_norm_eps":{{(double)1e-5f:R}},"rope_theta":12345,"rope_scaling":null,"attention_bias":false,"mlp_bias":false,
             "tie_word_embeddings":false,"bos_token_id":1,"eos_token_id":4}
            """);
        Assert.True(JsonNode.DeepEquals(expected, JsonNode.Parse(model.Config.ToJsonString())), model.Config.ToJsonString());
        GgufTokenizer tokenizer = model.Tokenizer!;
        Assert.Equal((1, 4, null, null, true, null), (tokenizer.BosId, tokenizer.EosId, tokenizer.PadId, tokenizer.UnknownId, tokenizer.AddBos, tokenizer.AddEos));
        Assert.Null(tokenizer.Merges);
    }

    [Fact]
    public void WithoutAnOutputMatrixTheHeadIsTied()
    {
        using GgufModel model = Open(Model());
        Assert.True(model.Config["tie_word_embeddings"]!.GetValue<bool>());
        Assert.Equal(10000.0, model.Config["rope_theta"]!.GetValue<double>());
        Assert.Null(model.Tokenizer);
    }

    [Fact]
    public void RopeScalingIsTranslated()
    {
        Check("""{"rope_type":"linear","factor":4}""", w => w.Add("llama.rope.scaling.type", "linear").Add("llama.rope.scaling.factor", 4f));
        Check("""{"rope_type":"linear","factor":2}""", w => w.Add("llama.rope.scale_linear", 2f));
        Check("null", w => w.Add("llama.rope.scaling.type", "none"));
        Check("""{"rope_type":"yarn","factor":4,"original_max_position_embeddings":8}""",
            w => w.Add("llama.rope.scaling.type", "yarn").Add("llama.rope.scaling.factor", 4f).Add("llama.rope.scaling.original_context_length", 8u));
        Check($$"""{"rope_type":"yarn","factor":4,"original_max_position_embeddings":8,"attention_factor":{{0.5 * (0.1 * Math.Log(4) + 1):R}},"beta_fast":16}""",
            w => w.Add("llama.rope.scaling.type", "yarn").Add("llama.rope.scaling.factor", 4f).Add("llama.rope.scaling.original_context_length", 8u)
                .Add("llama.rope.scaling.attn_factor", 0.5f).Add("llama.rope.scaling.yarn_beta_fast", 16f));
        Check("""{"rope_type":"longrope","short_factor":[1,8],"long_factor":[1,8],"original_max_position_embeddings":32,"attention_factor":1}""",
            w => w.AddTensor("rope_freqs.weight", [HeadDim / 2], new[] { 1f, 8f }));

        void Check(string expected, Func<GgufWriter, GgufWriter> change)
        {
            using GgufModel model = Open(change(Model()));
            string actual = model.Config["rope_scaling"]?.ToJsonString() ?? "null";
            Assert.True(JsonNode.DeepEquals(JsonNode.Parse(expected), JsonNode.Parse(actual)), $"{actual} instead of {expected}");
        }
    }

    [Fact]
    public void WhatTheTranslationCannotExpressIsRefused()
    {
        Refused("'mamba' is not supported from GGUF; supported are llama, qwen2", new GgufWriter("mamba"));
        Refused("general.type is 'adapter'", Model().Add("general.type", "adapter"));
        Refused("holds a control vector", new GgufWriter("controlvector"));
        Refused("'general.architecture' is missing", new GgufWriter(null));
        Refused("'llama.expert_used_count' is missing", Model().Add("llama.expert_count", 8u));
        Refused("'llama.expert_shared_count' is 1", Model().Add("llama.expert_shared_count", 1u));
        Refused("'llama.logit_scale' is 2", Model().Add("llama.logit_scale", 2f));
        Refused("causal", Model().Add("llama.attention.causal", false));
        Refused("'dynamic'", Model().Add("llama.rope.scaling.type", "dynamic"));
        Refused("partial rotation", Model().Add("llama.rope.dimension_count", 2u));
        Refused("'blk.0.attn_q_norm.weight' is no part", Model().AddTensor("blk.0.attn_q_norm.weight", [HeadDim], new float[HeadDim]));
        Refused("'blk.1.attn_q.weight' is no part of a llama model of 1 blocks", Model().AddTensor("blk.1.attn_q.weight", [1], new float[1]));
        Refused("bias on all or none", Model().AddTensor("blk.0.attn_v.bias", [HeadDim], new float[HeadDim]));
        Refused("must be finite and above 0", Model().AddTensor("rope_freqs.weight", [HeadDim / 2], new[] { 1f, 0f }));
        Refused("has shape [3], needed is [2]", Model().AddTensor("rope_freqs.weight", [3], new float[3]));
        Refused("'llama.vocab_size' is 6, the embedding has 5 rows", Model().Add("llama.vocab_size", 6u));
        Refused("lists 6 tokens, the embedding has 5 rows", Model().Add("tokenizer.ggml.model", "gpt2").Add("tokenizer.ggml.tokens", ["a", "b", "c", "d", "e", "f"]));
        Refused("'tokenizer.ggml.bos_token_id' is 9, the vocabulary has 5", Model().Add("tokenizer.ggml.model", "gpt2").Add("tokenizer.ggml.tokens", ["a"]).Add("tokenizer.ggml.bos_token_id", 9u));
        Refused("holds 2 values for 1 tokens", Model().Add("tokenizer.ggml.model", "gpt2").Add("tokenizer.ggml.tokens", ["a"]).Add("tokenizer.ggml.token_type", [1, 1]));
        Refused("differs from block to block (6, 7)", Model(innerSizes: [6, 7]));
    }

    private void Refused(string message, GgufWriter writer) =>
        Assert.Contains(message, Assert.Throws<UserErrorException>(() => Open(writer)).Message);

    private GgufModel Open(GgufWriter writer)
    {
        string path = _folder.File("x.gguf");
        writer.Write(path);
        return GgufModel.Open(path);
    }

    /// <summary>One block, two heads of four, one key head; every value is its row, columns told apart by hundredths; a bias counts its elements.</summary>
    internal static GgufWriter Model(bool bias = false, int[]? innerSizes = null)
    {
        GgufWriter writer = new GgufWriter("llama")
            .Add("llama.block_count", 1u).Add("llama.context_length", 32u).Add("llama.embedding_length", (uint)Hidden)
            .Add("llama.attention.head_count", (uint)Heads).Add("llama.attention.head_count_kv", 1u)
            .Add("llama.attention.layer_norm_rms_epsilon", 1e-5f);
        if (innerSizes is null)
            writer.Add("llama.feed_forward_length", (uint)Inner);
        else
            writer.Add("llama.feed_forward_length", innerSizes);
        Matrix("token_embd", Vocabulary, Hidden);
        Matrix("blk.0.attn_q", Hidden, Hidden, bias);
        Matrix("blk.0.attn_k", HeadDim, Hidden, bias);
        Matrix("blk.0.attn_v", HeadDim, Hidden, bias);
        Matrix("blk.0.attn_output", Hidden, Hidden, bias);
        Matrix("blk.0.ffn_gate", Inner, Hidden);
        Matrix("blk.0.ffn_up", Inner, Hidden);
        Matrix("blk.0.ffn_down", Hidden, Inner);
        foreach (string norm in new[] { "blk.0.attn_norm", "blk.0.ffn_norm", "output_norm" })
            writer.AddTensor(norm + ".weight", [Hidden], new float[Hidden]);
        return writer;

        void Matrix(string name, int rows, int columns, bool withBias = false)
        {
            writer.AddTensor(name + ".weight", [rows, columns], Enumerable.Range(0, rows * columns).Select(i => i / columns + i % columns / 100f).ToArray());
            if (withBias)
                writer.AddTensor(name + ".bias", [rows], Enumerable.Range(0, rows).Select(i => (float)i).ToArray());
        }
    }
}
