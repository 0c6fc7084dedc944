namespace Repeng.Steering.Models;

/// <summary>How a checkpoint that holds each projection of all experts as one tensor lays it out.</summary>
public enum StackLayout
{
    /// <summary>[experts, out, in], gate above up (transformers 5).</summary>
    OutIn,

    /// <summary>[experts, in, out], columns of gate and up taking turns (gpt-oss).</summary>
    InOutInterleaved,
}

/// <summary>The clamped gated unit of gpt-oss: (u + 1)·g·σ(Alpha·g), g = min(gate, Limit), u = up cut to ±Limit.</summary>
public readonly record struct ClampedGate(float Alpha, float Limit);

/// <summary>A mixture of experts, as data: a router chooses some of many small MLPs for each token and weighs their outputs.</summary>
public sealed record ExpertConfig
{
    /// <summary>Experts of a layer.</summary>
    public required int Count { get; init; }

    /// <summary>Experts that a token goes through.</summary>
    public required int PerToken { get; init; }

    /// <summary>Width of an expert's MLP.</summary>
    public required int IntermediateSize { get; init; }

    /// <summary>Which layers have experts; the others have a plain MLP.</summary>
    public required bool[] Layers { get; init; }

    /// <summary>Weights are the softmax over the chosen experts (the same as dividing their probabilities by their sum); else their probabilities among all experts.</summary>
    public bool NormaliseWeights { get; init; }

    /// <summary>The router below the MLP module: a linear layer with an output for each expert.</summary>
    public string Router { get; init; } = "gate";

    /// <summary>Bias of the router.</summary>
    public bool RouterBias { get; init; }

    /// <summary>Whether the router is a linear layer of the original software, which its quantisation reaches; gpt-oss has a bare parameter.</summary>
    public bool RouterIsLinear { get; init; } = true;

    /// <summary>The list of experts below the MLP module.</summary>
    public string List { get; init; } = "experts";

    /// <summary>Gate projection of an expert.</summary>
    public string Gate { get; init; } = "gate_proj";

    /// <summary>Up projection of an expert.</summary>
    public string Up { get; init; } = "up_proj";

    /// <summary>Down projection of an expert.</summary>
    public string Down { get; init; } = "down_proj";

    /// <summary>Biases of the experts' projections.</summary>
    public bool Bias { get; init; }

    /// <summary>Layout of gate_up_proj and down_proj where the checkpoint stacks the experts.</summary>
    public StackLayout Stack { get; init; }

    /// <summary>The gated unit where it is not activation(gate)·up.</summary>
    public ClampedGate? ClampedGate { get; init; }

    /// <summary>Width of the expert that every token goes through, 0 for none (shared_expert and shared_expert_gate).</summary>
    public int SharedIntermediateSize { get; init; }
}
