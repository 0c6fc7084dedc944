namespace Repeng.Kernels.Cuda;

/// <summary>How exact the products of layers and attention are on a GPU, whatever the weights' type and whichever library is there.</summary>
public enum CudaPrecision
{
    /// <summary>fp32 operands count with all their bits: 1e-6 by the kernels, 1e-5 by cuBLASLt.</summary>
    Exact,

    /// <summary>
    /// As torch.autocast to bf16: products that may round (<see cref="MatMulArgs.Autocast"/>) round both operands to bf16 and add up in fp32, and so do those of
    /// attention, whose softmax is fp32; 1e-2. Products of at most 8 rows with a weight [N, K] and attention of a token a sequence (decoding), which the memory bounds, and all other ops stay exact.
    /// </summary>
    Bf16,
}

/// <summary>Names of <see cref="CudaPrecision"/> for people.</summary>
public static class CudaPrecisions
{
    /// <summary>The precision of a name, <c>exact</c> or <c>bf16</c>. Throws <see cref="UserErrorException"/> for another.</summary>
    public static CudaPrecision Parse(string name) => name switch
    {
        "exact" => CudaPrecision.Exact,
        "bf16" => CudaPrecision.Bf16,
        _ => throw new UserErrorException($"precision '{name}' is not known; it is exact (fp32 accuracy) or bf16 (products of layers and attention round their operands to bf16)"),
    };

    /// <summary>What is computed how, in one line.</summary>
    public static string Describe(this CudaPrecision precision) => precision == CudaPrecision.Bf16
        ? "bf16: products of layers and attention round both operands to bf16 and add up in fp32 (1e-2), those of at most 8 rows, attention of one token and everything else stay at fp32 accuracy"
        : "exact: everything at fp32 accuracy";
}
