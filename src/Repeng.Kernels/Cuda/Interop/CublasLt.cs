namespace Repeng.Kernels.Cuda.Interop;

/// <summary>Element types as library_types.h numbers them.</summary>
public enum CudaDataType
{
    /// <summary>fp32.</summary>
    R32F = 0,

    /// <summary>fp64.</summary>
    R64F = 1,

    /// <summary>fp16.</summary>
    R16F = 2,

    /// <summary>bf16.</summary>
    R16BF = 14,
}

/// <summary>How a product is computed (cublasComputeType_t).</summary>
public enum CublasCompute
{
    /// <summary>fp32 sums; fp32 operands are multiplied in fp32.</summary>
    F32 = 68,
}

/// <summary>Attributes of a product (cublasLtMatmulDescAttributes_t) that are set here.</summary>
public enum CublasLtDesc
{
    /// <summary>CUBLASLT_MATMUL_DESC_TRANSA: 0 as it is, 1 transposed.</summary>
    TransA = 3,

    /// <summary>CUBLASLT_MATMUL_DESC_TRANSB.</summary>
    TransB = 4,
}

/// <summary>Attributes of a search for algorithms (cublasLtMatmulPreferenceAttributes_t) that are set here.</summary>
public enum CublasLtPreference
{
    /// <summary>CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES.</summary>
    MaxWorkspaceBytes = 1,

    /// <summary>CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES: what the first operand's address is a multiple of, uint; 256 where nothing is said.</summary>
    MinAlignmentA = 5,

    /// <summary>The same of the second operand.</summary>
    MinAlignmentB = 6,

    /// <summary>The same of the addend.</summary>
    MinAlignmentC = 7,

    /// <summary>The same of the result.</summary>
    MinAlignmentD = 8,
}

/// <summary>cublasLtMatmulAlgo_t: 64 bytes that only the library reads.</summary>
public unsafe struct CublasLtAlgorithm
{
    /// <summary>The library's.</summary>
    public fixed ulong Data[8];
}

/// <summary>cublasLtMatmulHeuristicResult_t, 96 bytes.</summary>
public unsafe struct CublasLtHeuristic
{
    /// <summary>The algorithm.</summary>
    public CublasLtAlgorithm Algorithm;

    /// <summary>Bytes of workspace that it needs.</summary>
    public nuint WorkspaceBytes;

    /// <summary>0 where the algorithm can be used.</summary>
    public int State;

    /// <summary>Waves of blocks.</summary>
    public float Waves;

    /// <summary>Reserved.</summary>
    public fixed int Reserved[4];
}

/// <summary>
/// The functions of cuBLASLt that this engine calls, as a table that is injected, like <see cref="CudaDriver"/>. Names, order of the arguments and
/// results (cublasStatus_t, 0 is success) are those of cublasLt.h. Matrices are column-major.
/// </summary>
public abstract unsafe class CublasLt
{
    /// <summary>What to call it in messages: <c>libcublasLt.so.12</c>.</summary>
    public abstract string Name { get; }

    /// <summary>cublasLtGetVersion: 10000·major + 100·minor + patch.</summary>
    public abstract nuint GetVersion();

    /// <summary>cublasLtCreate.</summary>
    public abstract int Create(out nint handle);

    /// <summary>cublasLtDestroy.</summary>
    public abstract int Destroy(nint handle);

    /// <summary>cublasLtMatmulDescCreate.</summary>
    public abstract int MatmulDescCreate(out nint description, CublasCompute compute, CudaDataType scale);

    /// <summary>cublasLtMatmulDescDestroy.</summary>
    public abstract int MatmulDescDestroy(nint description);

    /// <summary>cublasLtMatmulDescSetAttribute.</summary>
    public abstract int MatmulDescSetAttribute(nint description, CublasLtDesc attribute, void* value, nuint bytes);

    /// <summary>cublasLtMatrixLayoutCreate.</summary>
    public abstract int MatrixLayoutCreate(out nint layout, CudaDataType type, ulong rows, ulong columns, long leadingDimension);

    /// <summary>cublasLtMatrixLayoutDestroy.</summary>
    public abstract int MatrixLayoutDestroy(nint layout);

    /// <summary>cublasLtMatmulPreferenceCreate.</summary>
    public abstract int MatmulPreferenceCreate(out nint preference);

    /// <summary>cublasLtMatmulPreferenceDestroy.</summary>
    public abstract int MatmulPreferenceDestroy(nint preference);

    /// <summary>cublasLtMatmulPreferenceSetAttribute.</summary>
    public abstract int MatmulPreferenceSetAttribute(nint preference, CublasLtPreference attribute, void* value, nuint bytes);

    /// <summary>cublasLtMatmulAlgoGetHeuristic.</summary>
    public abstract int MatmulAlgoGetHeuristic(nint handle, nint description, nint layoutA, nint layoutB, nint layoutC, nint layoutD, nint preference, int requested, CublasLtHeuristic* results, out int returned);

    /// <summary>cublasLtMatmul: D = alpha·op(A)·op(B) + beta·C.</summary>
    public abstract int Matmul(nint handle, nint description, void* alpha, nint a, nint layoutA, nint b, nint layoutB, void* beta, nint c, nint layoutC, nint d, nint layoutD, CublasLtAlgorithm* algorithm, nint workspace, nuint workspaceBytes, nint stream);
}
