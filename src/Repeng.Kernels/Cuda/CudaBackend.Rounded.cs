using Repeng.Kernels.Cuda.Interop;

namespace Repeng.Kernels.Cuda;

/// <summary>
/// Products of operands rounded to bf16. Large ones read both operands as bf16 from memory (kernels/rounded.cu, or cuBLASLt), where activations and
/// weights that are not bf16 are brought first; the others round what they stage (matmul_rounded_* of kernels/matmul.cu). By the kernels the bits
/// of an element depend on its row of A, its column of B, K and whether the product is cut by its depth, not on which of them does it.
/// </summary>
public sealed partial class CudaBackend
{
    private const string RoundedImage = "rounded";
    private const int LeastRounded = 128, RoundTile = 2048;

    // FLOP of the tensor core in the time of a byte of L2: mma.sync's part of an H100's rate over the rate of its cache (docs/cuda-plan.md).
    private const double FlopsOfCacheByte = 111;

    // Tiles of rounded.cu: rows, columns, threads, shared memory, blocks of a multiprocessor.
    private static readonly (int Rows, int Columns, int Threads, int Shared, int Resident)[] s_roundedTiles =
        [(256, 192, 256, 86016, 1), (256, 160, 256, 79872, 1), (128, 192, 256, 81920, 1), (128, 128, 128, 65536, 2), (64, 64, 128, 32768, 4)];

    // bf16 copies of operands; a decoded weight lies in _unpacked.
    private ScratchRoom _roundedA, _roundedB;

    // What the beginning of _roundedA is the copy of: fp32 elements without gaps at an address, as they were after so many writes.
    private (nint From, long Length, long Writes) _copied;

    /// <summary>How exact products of layers are.</summary>
    public CudaPrecision Precision { get; private init; }

    // Products of few rows stay exact in either precision.
    private bool Rounds(in MatMulArgs args) => Precision == CudaPrecision.Bf16 && args.Autocast && !IsVector(args);

    private void RoundedProduct(MatMulParams p, DType weight, in MatMulArgs args)
    {
        (int rowsA, int colsA) = args.TransA ? (args.K, args.M) : (args.M, args.K);
        (int rowsB, int colsB) = args.TransB ? (args.N, args.K) : (args.K, args.N);
        bool whole = args.Batch == 1 && colsA % Eight == 0 && colsB % Eight == 0, library = whole && IsForLibrary(args, DType.BF16) && ((p.C | (nint)(args.RowStrideC * sizeof(float))) & 15) == 0;
        bool large = whole && !args.TransA && args is { M: >= LeastRounded, N: >= LeastRounded, K: >= LeastRounded } && !IsCut(args.N, args.K);
        if (library || large)
        {
            bool isCopied = args.RowStrideA == colsA && IsCopied(p.A, (long)rowsA * colsA);
            MatMulParams r = p with { A = isCopied ? _roundedA.Address : RoundRows(p.A, DType.F32, rowsA, colsA, args.RowStrideA, ref _roundedA), LdA = colsA };
            if (weight != DType.BF16 || ((p.B | (nint)(args.RowStrideB * 2)) & 15) != 0)
                r = r with { B = RoundRows(p.B, weight, rowsB, colsB, args.RowStrideB, ref _roundedB), LdB = colsB };
            if (library && MultiplyByLibrary(r.C, r.A, r.B, new(args.M, args.N, args.K, args.TransA, args.TransB, r.LdA, r.LdB, r.LdC, CudaDataType.R16BF, CublasCompute.F32), args.Accumulate))
                return;
            if (large)
            {
                LaunchRounded(r, args.TransB);
                if (args.RowStrideA == colsA)
                    Copied(p.A, (long)rowsA * colsA);
                return;
            }
        }
        ByTiles(p, args, weight.Size(), "rounded_", Suffix(weight, nameof(MatMul)));
    }

    // Layers of one input (queries, keys and values; gate and up) follow one another, and norms and gated units write the copy beside their result.
    private bool IsCopied(nint from, long length) => _copied == (from, length, Context.Writes);

    // Called after an op that wrote the copy, or read it and wrote nothing that it is a copy of.
    private void Copied(nint from, long length) => _copied = (from, length, Context.Writes);

    // Where the op that makes y [rows, cols] is to write its copy: 0 where no product of layers would read one.
    private nint RoomForCopy(View y, long rows, long cols) =>
        Precision == CudaPrecision.Bf16 && rows > VectorRows && cols % Eight == 0 && (y.Address & 15) == 0 ? Scratch(2 * rows * cols, ref _roundedA) : 0;

    private void LaunchRounded(in MatMulParams p, bool transB)
    {
        (int rows, int columns, int threads, int shared, _) = TileOf(p.M, p.N, Context.Device.Multiprocessors);
        KernelArguments k = default;
        k.Add(p);
        Kernel(RoundedImage, $"matmul_rounded_n{(transB ? 't' : 'n')}_{rows}x{columns}").Launch(new(Blocks((long)Blocks(p.M, rows) * Blocks(p.N, columns), 1)), new((uint)threads), shared, ref k);
    }

    /// <summary>The tile that takes the least time: the longer of the waves of blocks and what the tiles ask of the cache. Only the time depends on it.</summary>
    private static (int Rows, int Columns, int Threads, int Shared, int Resident) TileOf(int m, int n, int multiprocessors)
    {
        var best = s_roundedTiles[0];
        double least = double.MaxValue;
        foreach (var tile in s_roundedTiles)
        {
            double tiles = (double)Blocks(m, tile.Rows) * Blocks(n, tile.Columns), together = (double)tile.Resident * multiprocessors;
            double busy = tiles >= together ? Math.Ceiling(tiles / together) * together : Math.Max(tiles, multiprocessors);
            double time = Math.Max(busy * tile.Rows * tile.Columns, tiles * (tile.Rows + tile.Columns) * FlopsOfCacheByte);
            if (time < least)
                (best, least) = (tile, time);
        }
        return best;
    }

    private nint RoundRows(nint from, DType type, int rows, int cols, int rowStride, ref ScratchRoom room)
    {
        nint to = Scratch(2L * rows * cols, ref room);
        KernelArguments k = default;
        k.Add(to).Add(from).Add(rows).Add(cols).Add(rowStride);
        Kernel(RoundedImage, "round_rows_" + Suffix(type, nameof(MatMul))).Launch(new(Blocks((long)rows * cols, RoundTile)), new(Threads), 0, ref k);
        return to;
    }
}
