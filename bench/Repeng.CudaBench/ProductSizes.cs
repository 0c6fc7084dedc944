using System.Runtime.InteropServices;
using Repeng.Kernels.Cuda.Interop;
using Repeng.Testing.Cuda;

namespace Repeng.CudaBench;

/// <summary>What the parameters of a product or of attention say of its operands.</summary>
internal static class ProductSizes
{
    // Offsets of the sizes in MatMulParams and AttentionParams; number of AttentionParams.accumulate among them.
    private const int Sizes = 96, Adds = 12;

    // How the name of a product of the library begins.
    private const string Library = "matmul_cublasLt ";

    /// <summary>A product that goes to cuBLASLt as a launch: sizes where MatMulParams has them, its shape in its name. Row-major, so that operands change places.</summary>
    public static RecordedLaunch LibraryProduct(FakeCublasLt.LtProduct p)
    {
        var sizes = new byte[Sizes + (10 * sizeof(int))];
        Span<int> s = MemoryMarshal.Cast<byte, int>(sizes.AsSpan(Sizes));
        (s[0], s[1], s[2], s[6], s[7], s[9]) = ((int)p.Columns, (int)p.Rows, (int)p.Depth, p.Adds ? 1 : 0, 1, p.Result == CudaDataType.R16BF ? 1 : 0);
        string type = p.Type == CudaDataType.R32F ? "f32" : "bf16";
        return new RecordedLaunch($"{Library}{(p.TransB ? 't' : 'n')}{(p.TransA ? 't' : 'n')}{(p.Adds ? " +=" : "")} {p.Columns}×{p.Rows}×{p.Depth}{(p.Result == p.Type ? "" : " f32")} {type}", new(1), new(1), 0, [sizes], []);
    }

    /// <summary>A product of <see cref="LibraryProduct"/>.</summary>
    public static bool IsOfLibrary(RecordedLaunch launch) => launch.Kernel.StartsWith(Library, StringComparison.Ordinal);

    /// <summary>Bytes of the operands, each once, and FLOP that the operation needs; 0 for other kernels.</summary>
    public static (double Bytes, double Flop) Of(RecordedLaunch launch)
    {
        if (IsProduct(launch))
        {
            (double m, double n, double k, double batch, bool accumulate, double rank, bool halves) = Product(launch);
            double result = (halves ? 2 : 4) * m * n * launch.Grid.Y * (accumulate ? 2 : 1);
            return ((batch * ((IsOfTiles(launch.Kernel) ? 2 : 4) * m * k)) + (batch * BytesOfWeight(launch.Kernel) * n * k) + result + ((IsOfTiles(launch.Kernel) ? 2 : 4) * rank * (m + n)), 2 * m * n * ((batch * k) + rank));
        }
        if (!launch.Kernel.StartsWith("attention_", StringComparison.Ordinal) || launch.Parameters.Length != 1)
            return (0, 0);
        ReadOnlySpan<int> sizes = MemoryMarshal.Cast<byte, int>(launch.Parameters[0].AsSpan(Sizes));
        double queries = (double)sizes[0] * sizes[1] * sizes[3] * sizes[5], keys = (double)sizes[0] * sizes[2] * sizes[4] * sizes[5];
        // Pairs that are seen, without windows and padding.
        double pairs = (double)sizes[0] * sizes[3] * sizes[1] * (sizes[2] - ((sizes[1] - 1) / 2.0));
        // What rounds writes the bf16 copy of o, and the gradient by queries reads o for delta.
        double more = launch.Kernel.Contains("_rounded_", StringComparison.Ordinal) ? queries : 0;
        return launch.Kernel.Split('_')[1] switch
        {
            "forward" => ((4 * ((2 * queries) + (2 * keys))) + (2 * more), 4 * pairs * sizes[5]),
            "keys" => (4 * ((2 * queries) + ((sizes[Adds] != 0 ? 6 : 4) * keys)), 8 * pairs * sizes[5]),
            "queries" => (4 * (((sizes[Adds] != 0 ? 4 : 3) * queries) + more + (2 * keys)), 6 * pairs * sizes[5]),
            _ => (0, 0),
        };
    }

    /// <summary>A product of 64 rows or more, and of a weight that is worth it.</summary>
    public static bool IsLarge(RecordedLaunch launch) => IsProduct(launch) && Product(launch) is ( >= 64, >= 512, >= 512, 1, _, _, _);

    /// <summary>Elements of the weight.</summary>
    public static double Weights(RecordedLaunch launch) => Product(launch) is var (_, n, k, batch, _, _, _) ? n * k * batch : 0;

    /// <summary>Elements of the other operand.</summary>
    public static double Activations(RecordedLaunch launch) => Product(launch) is var (m, _, k, batch, _, _, _) ? m * k * batch : 0;

    /// <summary>A product of rounded.cu or of the library, which reads both operands as bf16.</summary>
    private static bool IsOfTiles(string kernel) => (kernel.StartsWith("matmul_rounded_", StringComparison.Ordinal) && kernel.Contains('x')) || (kernel.StartsWith(Library, StringComparison.Ordinal) && kernel.EndsWith("bf16", StringComparison.Ordinal));

    /// <summary>A product of any kind.</summary>
    public static bool IsProduct(RecordedLaunch launch) => launch.Kernel.StartsWith("matmul_", StringComparison.Ordinal) || launch.Kernel.StartsWith("matvec_", StringComparison.Ordinal);

    private static (double M, double N, double K, double Batch, bool Accumulate, double Rank, bool Halves) Product(RecordedLaunch launch)
    {
        ReadOnlySpan<int> sizes = MemoryMarshal.Cast<byte, int>(launch.Parameters[0].AsSpan(Sizes));
        return (sizes[0], sizes[1], sizes[2], (double)launch.Grid.Y * sizes[7], sizes[6] != 0, sizes[8], sizes[9] != 0);
    }

    private static double BytesOfWeight(string kernel) => kernel.Contains("_codes_", StringComparison.Ordinal) ? 0.5625 : kernel.EndsWith("f32", StringComparison.Ordinal) || kernel.StartsWith("matvec_f32", StringComparison.Ordinal) ? 4 : 2;
}
