using Repeng.Kernels;

namespace Repeng.Steering.Adapters;

/// <summary>Upstream's words for the settings.</summary>
public static class Names
{
    /// <summary>scale_s.</summary>
    public static string Scale(ScaleMethod method) => method switch { ScaleMethod.Mult => "mult", ScaleMethod.AddTanh => "add", ScaleMethod.Add => "add2", _ => "none" };

    /// <summary>scale_s by its word; add_tanh is another one for add.</summary>
    public static ScaleMethod ParseScale(string word) => word switch
    {
        "mult" => ScaleMethod.Mult,
        "add" or "add_tanh" => ScaleMethod.AddTanh,
        "add2" => ScaleMethod.Add,
        "none" => ScaleMethod.None,
        _ => throw new UserErrorException($"scale_s '{word}' is not known; known: mult (S·exp(cλ)), add (S + c·tanh(δ)·S), add2 (S + c·δ), none"),
    };

    /// <summary>rotation_method.</summary>
    public static string Rotation(RotationMethod method) => method switch { RotationMethod.Cayley => "cayley", RotationMethod.MatrixExp => "matrix_exp", _ => "block_diagonal" };

    /// <summary>rotation_method by its word.</summary>
    public static RotationMethod ParseRotation(string word) => word switch
    {
        "cayley" => RotationMethod.Cayley,
        "matrix_exp" => RotationMethod.MatrixExp,
        "block_diagonal" => RotationMethod.BlockDiagonal,
        _ => throw new UserErrorException($"rotation_method '{word}' is not known; known: cayley, matrix_exp, block_diagonal"),
    };
}
