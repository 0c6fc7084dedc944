using Repeng.Kernels;

namespace Repeng.Steering.Models;

/// <summary>Which normalisation a family uses.</summary>
public enum NormKind
{
    /// <summary>Root mean square.</summary>
    Rms,

    /// <summary>Mean and variance, with bias.</summary>
    Layer,
}

/// <summary>Where queries and keys are normalised before the rotary embedding.</summary>
public enum QkNormKind
{
    /// <summary>Not at all.</summary>
    None,

    /// <summary>Each head by itself, weight [head_dim].</summary>
    PerHead,

    /// <summary>The whole projection, weight [heads · head_dim].</summary>
    FullWidth,
}

/// <summary>Rotary embedding of a kind of layer.</summary>
/// <param name="Theta">Base of the frequencies.</param>
/// <param name="Scaling">How the frequencies are stretched, or null.</param>
public sealed record RopeSpec(double Theta, RopeScaling? Scaling);

/// <summary>How one projection for queries, keys and values lays them out.</summary>
public enum QkvLayout
{
    /// <summary>All queries, all keys, all values.</summary>
    Parts,

    /// <summary>Query, key and value of each head side by side (GPT-NeoX).</summary>
    ByHead,
}

/// <summary>Names of a block's parts below <c>{layers}.{i}.</c>; null where a family has none.</summary>
public sealed record BlockNames
{
    /// <summary>The attention module.</summary>
    public string Attention { get; init; } = "self_attn";

    /// <summary>The MLP module.</summary>
    public string Mlp { get; init; } = "mlp";

    /// <summary>Norm of the attention's input.</summary>
    public string? InputNorm { get; init; } = "input_layernorm";

    /// <summary>Norm of the attention's output, before the residual addition.</summary>
    public string? PostAttentionNorm { get; init; }

    /// <summary>Norm of the MLP's input.</summary>
    public string? PreMlpNorm { get; init; } = "post_attention_layernorm";

    /// <summary>Norm of the MLP's output, before the residual addition.</summary>
    public string? PostMlpNorm { get; init; }

    /// <summary>One projection for queries, keys and values, or null for q_proj, k_proj, v_proj.</summary>
    public string? FusedQkv { get; init; }

    /// <summary>Output projection of the attention.</summary>
    public string Output { get; init; } = "o_proj";

    /// <summary>One projection for gate (first half) and up, or null for gate_proj, up_proj.</summary>
    public string? FusedGateUp { get; init; }

    /// <summary>The up projection; of an MLP without gate, its first layer.</summary>
    public string Up { get; init; } = "up_proj";

    /// <summary>The down projection.</summary>
    public string Down { get; init; } = "down_proj";
}

/// <summary>Everything that tells one decoder from another, as data: the decoder itself is one.</summary>
public sealed record ModelConfig
{
    /// <summary>Family name, as config.json's model_type.</summary>
    public required string ModelType { get; init; }

    /// <summary>Entries of the vocabulary.</summary>
    public required int VocabSize { get; init; }

    /// <summary>Width of the residual stream.</summary>
    public required int HiddenSize { get; init; }

    /// <summary>Width of the MLP.</summary>
    public required int IntermediateSize { get; init; }

    /// <summary>Number of blocks.</summary>
    public required int NumLayers { get; init; }

    /// <summary>Query heads.</summary>
    public required int NumHeads { get; init; }

    /// <summary>Key and value heads.</summary>
    public required int NumKvHeads { get; init; }

    /// <summary>Size of a head.</summary>
    public required int HeadDim { get; init; }

    /// <summary>Longest context in tokens.</summary>
    public required int MaxPositions { get; init; }

    /// <summary>Kind of the norms.</summary>
    public NormKind Norm { get; init; }

    /// <summary>Added to the mean square or variance.</summary>
    public required float NormEps { get; init; }

    /// <summary>1 where norms multiply by 1 + weight.</summary>
    public float NormOffset { get; init; }

    /// <summary>Where q and k are normalised.</summary>
    public QkNormKind QkNorm { get; init; }

    /// <summary>Names of a block's parts.</summary>
    public BlockNames Names { get; init; } = new();

    /// <summary>Module that holds everything but the head, with its dot.</summary>
    public string Prefix { get; init; } = "model.";

    /// <summary>What the prefix is where another version of transformers wrote the file; null for none.</summary>
    public string? OtherPrefix { get; init; }

    /// <summary>List of blocks below the prefix.</summary>
    public string Layers { get; init; } = "layers";

    /// <summary>Token embedding below the prefix.</summary>
    public string Embedding { get; init; } = "embed_tokens";

    /// <summary>Learned positions below the prefix, or null for rotary ones.</summary>
    public string? PositionEmbedding { get; init; }

    /// <summary>Final norm below the prefix.</summary>
    public string FinalNorm { get; init; } = "norm";

    /// <summary>True where linear weights are stored [in, out] (GPT-2's Conv1D).</summary>
    public bool LinearStoredTransposed { get; init; }

    /// <summary>Bias on q, k and v.</summary>
    public bool QkvBias { get; init; }

    /// <summary>Bias on the attention's output.</summary>
    public bool OutputBias { get; init; }

    /// <summary>Bias in the MLP.</summary>
    public bool MlpBias { get; init; }

    /// <summary>Whether the MLP is gated: down(f(gate(x))·up(x)), else down(f(up(x))).</summary>
    public bool Gated { get; init; } = true;

    /// <summary>f of the MLP.</summary>
    public UnaryOp Activation { get; init; } = UnaryOp.Silu;

    /// <summary>Rotary embedding of layers that see everything; null for none.</summary>
    public RopeSpec? Rope { get; init; }

    /// <summary>Rotary embedding of layers with a window, where it differs.</summary>
    public RopeSpec? LocalRope { get; init; }

    /// <summary>How many elements of a head are rotated.</summary>
    public int RotaryDim { get; init; }

    /// <summary>True where neighbouring elements are rotated with each other.</summary>
    public bool RopeInterleaved { get; init; }

    /// <summary>Which layers have the rotary embedding, null for all.</summary>
    public bool[]? RotaryLayers { get; init; }

    /// <summary>Order of a fused projection of queries, keys and values.</summary>
    public QkvLayout QkvLayout { get; init; }

    /// <summary>Bound of |q|, |k| and |v| after their projection and norm, 0 for none.</summary>
    public float QkvClip { get; init; }

    /// <summary>A learned score of each head that takes part in the softmax and has no value (<c>sinks</c> of the attention module).</summary>
    public bool AttentionSinks { get; init; }

    /// <summary>Whether the MLP reads what the attention reads: x + attention(norm x) + mlp(norm′ x), else one after the other.</summary>
    public bool ParallelResidual { get; init; }

    /// <summary>Factor of what attention and MLP add to the residual stream.</summary>
    public float ResidualScale { get; init; } = 1;

    /// <summary>Mixture of experts in the place of the MLP, or null.</summary>
    public ExpertConfig? Experts { get; init; }

    /// <summary>Window of each layer in tokens, 0 for none.</summary>
    public required int[] Windows { get; init; }

    /// <summary>Factor of the attention scores.</summary>
    public required float AttentionScale { get; init; }

    /// <summary>Soft cap of the attention scores, 0 for none.</summary>
    public float AttentionSoftCap { get; init; }

    /// <summary>Soft cap of the logits, 0 for none.</summary>
    public float LogitSoftCap { get; init; }

    /// <summary>Factor of the logits.</summary>
    public float LogitScale { get; init; } = 1;

    /// <summary>Factor of the token embeddings.</summary>
    public float EmbeddingScale { get; init; } = 1;

    /// <summary>Whether the head shares the token embedding's weight.</summary>
    public bool TiedHead { get; init; }

    /// <summary>Tokens that end a text.</summary>
    public int[] EosTokenIds { get; init; } = [];

    /// <summary>Dotted path of the token embedding.</summary>
    public string EmbeddingPath => Prefix + Embedding;

    /// <summary>Dotted path of the head.</summary>
    public string HeadPath { get; init; } = "lm_head";

    /// <summary>The mixture of experts of a block, or null where it has a plain MLP.</summary>
    public ExpertConfig? ExpertsOf(int layer) => Experts is not null && Experts.Layers[layer] ? Experts : null;

    /// <summary>Dotted path of a block.</summary>
    public string BlockPath(int layer) => $"{Prefix}{Layers}.{layer}";
}
