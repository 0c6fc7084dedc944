using System.Runtime.InteropServices;
using Repeng.Kernels;
using Repeng.Kernels.Quantised;

namespace Repeng.CudaBench;

internal static partial class KernelCases
{
    /// <summary>MatMulParams of kernels/matmul.cuh.</summary>
    [StructLayout(LayoutKind.Sequential)]
    internal record struct ProductParams
    {
        public nint A, B, C, Bias, Residual, Gate, Up, TermA, TermB;
        public long StrideA, StrideB, StrideC;
        public int M, N, K, LdA, LdB, LdC, Accumulate, Summed, Rank, Reserved;
    }

    /// <summary>RoundParams of kernels/rounded.cu.</summary>
    [StructLayout(LayoutKind.Sequential)]
    private record struct RoundParams
    {
        public nint To0, To1, To2, To3, From0, From1, From2, From3;
        public int Rows0, Rows1, Rows2, Rows3, Cols0, Cols1, Cols2, Cols3, Turned0, Turned1, Turned2, Turned3, End0, End1, End2, End3;
    }

    /// <summary>BlocksParams of kernels/blocks.cu.</summary>
    [StructLayout(LayoutKind.Sequential)]
    private record struct BlocksParams
    {
        public nint Data, Scales, Grid;
        public long Start;
        public int Type, Columns, Width, Shift;
    }

    /// <summary>CodesParams of kernels/quantised.cu.</summary>
    [StructLayout(LayoutKind.Sequential)]
    private record struct CodesParams
    {
        public nint Data, Code, Absmax, ScaleCodes, NestedScales, NestedMap;
        public long Start;
        public float Offset;
        public int BlockShift, NestedShift, Reserved;
    }

    // Tensor-core products that fp32 accuracy takes (kernels/mma.cuh).
    private static int Parts(DType type) => type == DType.F32 ? 6 : type == DType.F16 ? 5 : 3;

    private static string Name(DType type) => type.ToString().ToLowerInvariant();

    private static ProductParams Params(EmulatedGpu g, View a, nint b, int m, int n, int k, bool transA = false, bool transB = true) => new()
    {
        A = a.Address,
        B = b,
        C = g.Zeros((long)m * n).Address,
        M = m,
        N = n,
        K = k,
        LdA = transA ? m : k,
        LdB = transB ? k : n,
        LdC = n,
        Summed = 1,
    };

    // A once a column of tiles, B once a row of tiles.
    private static Floor TileFloor(int m, int n, int k, double bytesOfB, double parts, int tileM = 64, int tileN = 64, double bytesOfA = 4) =>
        new((bytesOfA * m * k) + ((double)n * k * bytesOfB), 4.0 * m * n, (bytesOfA * m * k * Ceil(n, tileN)) + ((double)n * k * bytesOfB * Ceil(m, tileM)) + (4.0 * m * n), 2.0 * m * n * k * parts);

    private static IEnumerable<KernelCase> Products()
    {
        const int m = 128, n = 128, k = Hidden, rank = 64;
        string shape = $"{m} × {n} × {k}";
        foreach (DType type in new[] { DType.F32, DType.F16, DType.BF16 })
        {
            foreach (bool transA in new[] { false, true })
                foreach (bool transB in new[] { false, true })
                    yield return new(shape, g => g.Backend.MatMul(g.Zeros(m * n), g.Signed(m * k), g.Weights(n * k, type), new MatMulArgs(m, n, k, transA, transB)),
                        ($"matmul_{(transA ? 't' : 'n')}{(transB ? 't' : 'n')}_{Name(type)}", TileFloor(m, n, k, type.Size(), Parts(type))));
            foreach (string f in new[] { "silu", "gelu", "gelu_tanh" })
                yield return new(shape, g =>
                    {
                        ProductParams p = Params(g, g.Signed(m * k), g.Weights(n * k, type).Address, m, n, k) with { Residual = g.Weights(n * k, type).Address, Gate = g.Zeros(m * n).Address, Up = g.Zeros(m * n).Address };
                        g.Launch("matmul", $"matmul_gated_{f}_{Name(type)}", new(Ceil(m, 64) * Ceil(n, 32)), 128, 0, (ref a) => a.Add(p));
                    },
                    ($"matmul_gated_{f}_{Name(type)}", new Floor((4.0 * m * k) + (2.0 * n * k * type.Size()), 12.0 * m * n, (4.0 * m * k * Ceil(n, 32)) + (2.0 * n * k * type.Size() * Ceil(m, 64)) + (12.0 * m * n), 4.0 * m * n * k * Parts(type))));
            Floor product = TileFloor(m, n, k, type.Size(), Parts(type)), term = TileFloor(m, n, rank, 4, Parts(DType.F32));
            yield return new($"{shape}, rank {rank}", g =>
                {
                    ProductParams p = Params(g, g.Signed(m * k), g.Weights(n * k, type).Address, m, n, k) with { TermA = g.Signed(m * rank).Address, TermB = g.Signed(n * rank).Address, Rank = rank };
                    g.Launch("matmul", $"matmul_term_{Name(type)}", new(Ceil(m, 64) * Ceil(n, 64)), 128, 0, (ref a) => a.Add(p));
                },
                ($"matmul_term_{Name(type)}", new Floor(product.Read + term.Read, product.Written, product.Asked + term.Asked - term.Written, product.Mma + term.Mma)));
            foreach (int rows in new[] { 1, 2, 4, 8 })
                yield return new($"{rows} × {n} × {k}", g => g.Backend.MatMul(g.Zeros(rows * n), g.Signed(rows * k), g.Weights(n * k, type), new MatMulArgs(rows, n, k, TransB: true)),
                    ($"matvec_{Name(type)}_{rows}", new Floor((4.0 * rows * k) + (n * k * type.Size()), 4.0 * rows * n, (4.0 * rows * k * Ceil(n, 16)) + (n * k * type.Size()) + (32.0 * rows * n))));
        }
        foreach ((int tileM, int tileN, int threads, int shared) in new[] { (256, 192, 256, 86016), (256, 160, 256, 79872), (128, 192, 256, 81920), (128, 128, 128, 65536), (64, 64, 128, 32768) })
            foreach (bool transB in new[] { false, true })
                yield return new($"{2 * tileM} × {tileN} × {k}", g =>
                    {
                        ProductParams p = Params(g, g.Weights(2 * tileM * k, DType.BF16), g.Weights(tileN * k, DType.BF16).Address, 2 * tileM, tileN, k, transB: transB);
                        g.Launch("rounded", $"matmul_rounded_n{(transB ? 't' : 'n')}_{tileM}x{tileN}", new(2), threads, shared, (ref a) => a.Add(p));
                    },
                    ($"matmul_rounded_n{(transB ? 't' : 'n')}_{tileM}x{tileN}", TileFloor(2 * tileM, tileN, k, 2, 1, tileM, tileN, 2)));
        foreach (DType type in new[] { DType.F32, DType.F16, DType.BF16 })
        {
            foreach (bool transA in new[] { false, true })
                foreach (bool transB in new[] { false, true })
                    yield return new(shape, g =>
                        {
                            ProductParams p = Params(g, g.Signed(m * k), g.Weights(n * k, type).Address, m, n, k, transA, transB);
                            g.Launch("matmul", $"matmul_rounded_{(transA ? 't' : 'n')}{(transB ? 't' : 'n')}_{Name(type)}", new(Ceil(m, 64) * Ceil(n, 64)), 128, 0, (ref a) => a.Add(p));
                        },
                        ($"matmul_rounded_{(transA ? 't' : 'n')}{(transB ? 't' : 'n')}_{Name(type)}", TileFloor(m, n, k, type.Size(), 1)));
            if (type == DType.F32)
                yield return new($"{m} × {k}, and one turned", g =>
                    {
                        RoundParams p = default;
                        nint y = g.Take(2 * m * k), turned = g.Take(2 * m * k);
                        (p.To0, p.To1, p.From0, p.From1, p.Rows0, p.Rows1, p.Cols0, p.Cols1, p.Turned1, p.End0, p.End1) = (y, turned, g.Signed(m * k).Address, g.Signed(m * k).Address, m, k, k, m, 1, (int)Ceil(m * k, 2048), 2 * (int)Ceil(m * k, 2048));
                        g.Launch("rounded", "round_several", new(2 * Ceil(m * k, 2048)), 256, 0, (ref a) => a.Add(p));
                    },
                    ("round_several", new Floor(8.0 * m * k, 4.0 * m * k)));
            yield return new($"{m} × {k}", g => g.Launch("rounded", "round_rows_" + Name(type), new(Ceil(m * k, 2048)), 256, 0, (ref a) => a.Add(g.Zeros(m * k / 2)).Add(g.Weights(m * k, type)).Add(m).Add(k).Add(k)),
                ("round_rows_" + Name(type), new Floor((double)m * k * type.Size(), 2.0 * m * k)));
        }
        const int stretches = 5;
        yield return new($"{Rows} × {rank} × {rank}, {stretches} stretches", g => g.Launch("rounded", "term_rounded", new(Ceil(Rows, 16)), 256, 0,
                (ref a) => a.Add(g.Zeros(Rows * rank)).Add(g.Zeros(Rows * rank)).Add(g.Take(2 * Rows * rank)).Add(g.Signed(stretches * Rows * rank)).Add(g.Signed(rank * rank)).Add(Rows).Add(rank).Add(stretches).Add(0)),
            ("term_rounded", new Floor((4.0 * stretches * Rows * rank) + (4 * rank * rank), 10.0 * Rows * rank, (4.0 * stretches * Rows * rank) + (4.0 * rank * rank * Ceil(Rows, 16)) + (10.0 * Rows * rank), 2.0 * Rows * rank * rank)));
        yield return new($"{Rows} × {rank} × {rank}", g =>
            {
                nint mixes = g.Bytes(MemoryMarshal.AsBytes(new[] { (ulong)g.Signed(rank * rank).Address }.AsSpan()));
                View segment = g.Ints(new int[Rows]);
                g.Launch("matmul", "term_mix", new(Ceil(Rows * rank, 256)), 256, 0, (ref a) => a.Add(g.Zeros(Rows * rank)).Add(g.Signed(Rows * rank)).Add(mixes).Add(segment).Add(Rows).Add(rank));
            },
            ("term_mix", new Floor(4 * ((Rows * rank) + (rank * rank)), 4 * Rows * rank, 4 * ((2 * Rows * rank) + (Rows * rank * rank)))));
    }

    private static unsafe IEnumerable<KernelCase> PackedWeights()
    {
        const int m = 128, n = 128, k = Hidden, rank = 64, block = 64;
        const double bytes = 0.5 + (4.0 / block), nested = 0.5 + (1.0 / block) + (4.0 / block / 256);
        const long all = 64L * Hidden;
        string shape = $"{m} × {n} × {k}, NF4", flat = $"64 × {Hidden}";
        foreach (string type in new[] { "f32", "bf16" })
        {
            double written = type == "f32" ? 4 : 2;
            yield return new($"{flat}, NF4", g => g.Launch("quantised", "unpack_codes_" + type, new(Ceil(all, 16384)), 256, 0, (ref a) => a.Add(Codes(g, all, false)).Add(g.Zeros(all)).Add(all)), ("unpack_codes_" + type, new Floor(all * bytes, written * all)));
            yield return new($"{flat}, NF4 double quantised", g => g.Launch("quantised", "unpack_codes_" + type, new(Ceil(all, 16384)), 256, 0, (ref a) => a.Add(Codes(g, all, true)).Add(g.Zeros(all)).Add(all)), ("unpack_codes_" + type, new Floor(all * nested, written * all)));
            yield return new($"{flat}, LLM.int8", g => g.Launch("quantised", "unpack_rows_" + type, new(Ceil(all, 1024)), 256, 0, (ref a) => a.Add(g.Zeros(all)).Add(g.Codes(all)).Add(g.Positive(64)).Add(0L).Add(all).Add(Hidden)), ("unpack_rows_" + type, new Floor(all + 256, written * all)));
            foreach (BlockType of in BlockType.All.Where(b => b.CanDecode && s_blocks.Contains(b.Name)))
            {
                string kernel = $"unpack_{of.Name.ToLowerInvariant()}_{type}";
                yield return new(flat, g => g.Launch("blocks", kernel, new(Ceil(all, 4096)), 128, 0, (ref a) => a.Add(g.Zeros(all)).Add(g.Codes(of.SizeOf(all))).Add(0L).Add(all)), (kernel, new Floor(of.SizeOf(all), written * all)));
            }
        }
        const long blocks = all / block;
        yield return new(flat, g =>
            {
                byte[] ascending = [.. Enumerable.Range(0, 16).Select(i => (byte)i)];
                float[] middles = [.. Enumerable.Range(0, 15).Select(i => (FourBitCode.Nf4.Values[i] + FourBitCode.Nf4.Values[i + 1]) / 2)];
                nint midpoints = g.Bytes(MemoryMarshal.AsBytes(middles.AsSpan())), order = g.Bytes(ascending);
                g.Launch("quantised", "pack_codes", new(Ceil(blocks, 8)), 256, 0, (ref a) => a.Add(g.Take(all / 2)).Add(g.Zeros(blocks)).Add(g.Ints(0)).Add(g.Signed(all)).Add(midpoints).Add(order).Add(all).Add(block).Add(16).Add(7));
            },
            ("pack_codes", new Floor(4 * all, (all / 2) + (4 * blocks), (4.0 * all) + (all / 2) + (32 * blocks))));
        yield return new($"{blocks} scales", g => g.Launch("quantised", "scales_mean", new(1), 1024, 0, (ref a) => a.Add(g.Zeros(1)).Add(g.Positive(blocks)).Add(blocks)), ("scales_mean", new Floor(4 * blocks, 4)));
        yield return new($"{blocks} scales", g =>
            {
                nint map = g.Bytes(MemoryMarshal.AsBytes(FourBitCode.DynamicCode));
                g.Launch("quantised", "pack_scales", new(Ceil(blocks, 256)), 256, 0, (ref a) => a.Add(g.Take(blocks)).Add(g.Zeros(Ceil(blocks, 256))).Add(g.Positive(blocks)).Add(g.Positive(1)).Add(map).Add(blocks));
            },
            ("pack_scales", new Floor((4 * blocks) + 1024, blocks + (4 * Ceil(blocks, 256)), (5 * blocks) + (1100.0 * Ceil(blocks, 256)))));
        foreach (string letters in new[] { "nt", "nn" })
            yield return new(shape, g =>
                {
                    ProductParams p = Params(g, g.Signed(m * k), 0, m, n, k, transB: letters == "nt");
                    CodesParams c = Codes(g, (long)n * k, false);
                    g.Launch("quantised", "matmul_codes_" + letters, new(Ceil(m, 64) * Ceil(n, 64)), 128, 0, (ref a) => a.Add(p).Add(c));
                },
                ("matmul_codes_" + letters, TileFloor(m, n, k, bytes, Parts(DType.F32))));
        Floor product = TileFloor(m, n, k, bytes, Parts(DType.F32)), term = TileFloor(m, n, rank, 4, Parts(DType.F32));
        yield return new($"{shape}, rank {rank}", g =>
            {
                ProductParams p = Params(g, g.Signed(m * k), 0, m, n, k) with { TermA = g.Signed(m * rank).Address, TermB = g.Signed(n * rank).Address, Rank = rank };
                CodesParams c = Codes(g, (long)n * k, false);
                g.Launch("quantised", "matmul_codes_term", new(Ceil(m, 64) * Ceil(n, 64)), 128, 0, (ref a) => a.Add(p).Add(c));
            },
            ("matmul_codes_term", new Floor(product.Read + term.Read, product.Written, product.Asked + term.Asked - term.Written, product.Mma + term.Mma)));
        foreach (int rows in new[] { 1, 2, 4, 8 })
            yield return new($"{rows} × {n} × {k}, NF4", g =>
                {
                    ProductParams p = Params(g, g.Signed(rows * k), 0, rows, n, k);
                    CodesParams c = Codes(g, (long)n * k, false);
                    g.Launch("quantised", $"matvec_codes_{rows}", new(Ceil(n, 16)), 256, 0, (ref a) => a.Add(p).Add(c));
                },
                ($"matvec_codes_{rows}", new Floor((4.0 * rows * k) + (n * k * bytes), 4.0 * rows * n, (4.0 * rows * k * Ceil(n, 16)) + (n * k * bytes) + (32.0 * rows * n))));
    }

    // More than the columns up to which products are cut by their depth.
    private const int GroupColumns = 192;

    // Groups of rows as experts give them, and products over blocks of ggml, as the engine launches them.
    private static IEnumerable<KernelCase> GroupsAndBlocks()
    {
        const int n = GroupColumns, k = Hidden, m = 128;
        foreach (DType type in new[] { DType.F32, DType.F16, DType.BF16 })
        {
            int[] many = [64, 128, 70], few = [1, 8, 3];
            foreach (bool transB in new[] { true, false })
                yield return new($"{string.Join(", ", many)} × {n} × {k}", g => Grouped(g, many, transB, type),
                    ($"matmul_groups_n{(transB ? 't' : 'n')}_{Name(type)}", Sum(many.Select(rows => TileFloor(rows, n, k, type.Size(), Parts(type))))));
            yield return new($"{string.Join(", ", few)} × {n} × {k}", g => Grouped(g, few, true, type),
                ($"matvec_groups_{Name(type)}", Sum(few.Select(rows => new Floor((4.0 * rows * k) + (n * k * type.Size()), 4.0 * rows * n, (4.0 * rows * k * Ceil(n, 16)) + (n * k * type.Size()) + (32.0 * rows * n))))));
        }
        BlockType of = BlockType.Find("Q4_K")!;
        double bytes = (double)of.Bytes / of.Elements;
        const long all = 64L * Hidden;
        foreach (string name in new[] { "Q4_K", "Q8_0", "IQ2_S" })
            yield return new($"64 × {Hidden}, {name}", g => g.Backend.Unpack(g.Zeros(all), Blocks(g, BlockType.Find(name)!, all)), ("unpack_blocks", new Floor(BlockType.Find(name)!.SizeOf(all), 4 * all)));
        yield return new($"64 × {Hidden}, Q4_K", g => g.Launch("blocks", "unpack_blocks_bf16", new(Ceil(all, 4096)), 128, 0, (ref a) => a.Add(g.Zeros(all / 2)).Add(new BlocksParams { Data = g.Codes(of.SizeOf(all)), Type = (int)of.GgmlId, Width = of.Bytes, Shift = 8 }).Add(all)), ("unpack_blocks_bf16", new Floor(of.SizeOf(all), 2 * all)));
        yield return new($"8 rows of 64 × {Hidden}, Q4_K", g => g.Backend.EmbeddingForward(g.Zeros(8 * Hidden), Blocks(g, of, all), g.Ints(5, 0, 63, 7, 7, 31, 2, 9), 8, Hidden, 1), ("lookup_blocks", new Floor(8 * Hidden * bytes, 32 * Hidden)));
        yield return new($"8 rows of 64 × {Hidden}, NF4", g => g.Launch("quantised", "lookup_codes", new(8, Ceil(Hidden, 1024)), 256, 0, (ref a) => a.Add(g.Zeros(8 * Hidden)).Add(Codes(g, all, false)).Add(g.Ints(5, 0, 63, 7, 7, 31, 2, 9)).Add(Hidden).Add(1f)),
            ("lookup_codes", new Floor(8 * Hidden * (0.5 + (4.0 / 64)), 32 * Hidden)));
        foreach (bool transB in new[] { true, false })
            yield return new($"{m} × {n} × {k}, Q4_K", g =>
                {
                    // Rows of the weight are whole blocks.
                    (int outputs, int depth) = transB ? (n, k) : (256, n);
                    g.Backend.MatMul(g.Zeros(m * outputs), g.Signed(m * depth), Blocks(g, of, (long)outputs * depth), new MatMulArgs(m, outputs, depth, TransB: transB));
                },
                ($"matmul_blocks_n{(transB ? 't' : 'n')}", transB ? TileFloor(m, n, k, bytes, Parts(DType.F32)) : TileFloor(m, 256, n, bytes, Parts(DType.F32))));
        foreach (int rows in new[] { 1, 2, 4, 8 })
            foreach (string name in rows is 1 or 8 ? s_vectors : ["Q4_K"])
            {
                BlockType vector = BlockType.Find(name)!;
                // The grid of an IQ type is an operand of every block, as A is.
                double each = (double)vector.Bytes / vector.Elements, grid = name == "IQ2_S" ? 8192 : 0;
                yield return new($"{rows} × {n} × {k}, {name}", g => g.Backend.MatMul(g.Zeros(rows * n), g.Signed(rows * k), Blocks(g, vector, (long)n * k), new MatMulArgs(rows, n, k, TransB: true)),
                    ($"matvec_blocks_{rows}", new Floor((4.0 * rows * k) + (n * k * each) + grid, 4.0 * rows * n, (((4.0 * rows * k) + grid) * Ceil(n, 16)) + (n * k * each) + (32.0 * rows * n))));
            }

        static Floor Sum(IEnumerable<Floor> floors) => floors.Aggregate((a, b) => new Floor(a.Read + b.Read, a.Written + b.Written, a.Plan + b.Plan, a.Mma + b.Mma));

        static View Blocks(EmulatedGpu g, BlockType type, long elements) => Packing.OfBlocks(type, g.Codes(type.SizeOf(elements)), elements).View;

        static void Grouped(EmulatedGpu g, int[] counts, bool transB, DType type)
        {
            var groups = new MatMulGroup[counts.Length];
            int rows = 0;
            for (int i = 0; i < groups.Length; i++)
            {
                groups[i] = new MatMulGroup(rows, counts[i], g.Weights(GroupColumns * k, type));
                rows += counts[i];
            }
            g.Backend.MatMulGroups(g.Zeros(rows * GroupColumns), g.Signed(rows * k), groups, new GroupArgs(GroupColumns, k, transB));
        }
    }

    private static readonly string[] s_vectors = ["Q4_K", "Q5_K", "Q6_K", "Q8_0", "Q4_0", "Q2_K", "Q3_K", "IQ4_XS", "IQ4_NL", "MXFP4", "IQ2_S"];

    private static readonly string[] s_blocks = ["Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K", "IQ4_NL", "IQ4_XS", "MXFP4"];

    private static CodesParams Codes(EmulatedGpu g, long elements, bool nested)
    {
        long scales = elements / 64;
        return new CodesParams
        {
            Data = g.Codes(elements / 2),
            Code = g.Bytes(MemoryMarshal.AsBytes(FourBitCode.Nf4.Values)),
            Absmax = nested ? 0 : g.Positive(scales).Address,
            ScaleCodes = nested ? g.Codes(scales) : 0,
            NestedScales = nested ? g.Positive(Ceil(scales, 256)).Address : 0,
            NestedMap = nested ? g.Bytes(MemoryMarshal.AsBytes(FourBitCode.DynamicCode)) : 0,
            BlockShift = 6,
            NestedShift = 8,
        };
    }
}
