using Repeng.Kernels;

namespace Repeng.Steering.Adapters;

/// <summary>How a rotation is made from its skew-symmetric matrix A and the coefficient c.</summary>
public enum RotationMethod
{
    /// <summary>R = (I − cA/2)⁻¹(I + cA/2).</summary>
    Cayley,

    /// <summary>R = e^(cA).</summary>
    MatrixExp,

    /// <summary>e^(cA) in blocks of <see cref="SvdAdapterConfig.BlockSize"/> on the diagonal.</summary>
    BlockDiagonal,
}

/// <summary>How the singular values follow the coefficient c; δ or λ is the trained vector.</summary>
public enum ScaleMethod
{
    /// <summary>S·e^(cλ); "mult" upstream.</summary>
    Mult,

    /// <summary>S·(1 + c·tanh δ); "add" upstream.</summary>
    AddTanh,

    /// <summary>S + c·δ; "add2" upstream, AntiPaSTO's only form.</summary>
    Add,

    /// <summary>S stays.</summary>
    None,
}

/// <summary>
/// Settings of the SVD adapter (system of wassname/repeng and AntiPaSTO): the top r singular directions of each
/// target weight are rotated and scaled by a coefficient c.
/// </summary>
public sealed record SvdAdapterConfig
{
    /// <summary>Singular directions that are adapted.</summary>
    public int Rank { get; init; } = 64;

    /// <summary>Rotate the left singular vectors.</summary>
    public bool RotateU { get; init; }

    /// <summary>Rotate the right singular vectors.</summary>
    public bool RotateV { get; init; } = true;

    /// <summary>Parametrisation of the rotations.</summary>
    public RotationMethod Rotation { get; init; } = RotationMethod.Cayley;

    /// <summary>Size of a block of <see cref="RotationMethod.BlockDiagonal"/>; must divide the rank.</summary>
    public int BlockSize { get; init; }

    /// <summary>Parametrisation of the singular values.</summary>
    public ScaleMethod Scale { get; init; } = ScaleMethod.Add;

    /// <summary>Largest angle θ in radians that an entry of A may stand for at c = 1: A ← L·tanh(A/L), L = 2·tan(θ/2). Null or ≥ π for none.</summary>
    public double? MaxRotationAngle { get; init; }

    /// <summary>Regular expression that a linear layer's whole dotted path must match.</summary>
    public string TargetModules { get; init; } = "";

    /// <summary>Standard deviation of the rotation's start: P = Z − Zᵀ with Z ~ N(0, σ).</summary>
    public double InitRotation { get; init; } = 0.002;

    /// <summary>Key of the random start.</summary>
    public ulong Seed { get; init; } = 42;

    /// <summary>Name of the scale parameter in files.</summary>
    public string ScaleParameter => Scale switch { ScaleMethod.Mult => "svft_loglambda_s", ScaleMethod.AddTanh => "svft_delta_s", ScaleMethod.Add => "antipasto_delta_s", _ => "" };

    /// <summary>Prefix of the rotation parameters in files.</summary>
    public string RotationPrefix => Scale == ScaleMethod.Add ? "antipasto_rotation_params_" : "svft_rotation_params_";

    /// <summary>Throws when the settings contradict each other.</summary>
    public void Validate()
    {
        if (Rank < 1)
            throw new UserErrorException($"rank {Rank}: at least 1 is needed");
        if (!RotateU && !RotateV && Scale == ScaleMethod.None)
            throw new UserErrorException("nothing to train: neither U nor V is rotated and scale_s is none");
        if (Rotation == RotationMethod.BlockDiagonal && (BlockSize < 2 || Rank % BlockSize != 0))
            throw new UserErrorException($"block_size {BlockSize} must be at least 2 and divide the rank {Rank}");
        if (MaxRotationAngle is <= 0)
            throw new UserErrorException($"max_rotation_angle {MaxRotationAngle} must be above 0 (radians)");
    }
}
