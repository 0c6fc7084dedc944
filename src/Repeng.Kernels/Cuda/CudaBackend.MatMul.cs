using System.Runtime.InteropServices;

namespace Repeng.Kernels.Cuda;

public sealed partial class CudaBackend
{
    private const string Products = "matmul";
    private const int Tile = 64, TileThreads = 128, VectorRows = 8, VectorTile = 16, GridY = 65535;

    // Few columns and a long sum, as x·V of an adapter: tiles of C are fewer than a GPU has multiprocessors, so that stretches of the sum run side by side.
    // Whether a product is cut depends on its columns and its depth alone, and so do the bits of an element.
    private const int ThinColumns = 128, Stretch = 512, StretchRows = 4096;

    // The gradient of a small matrix, zᵀ·dy of many rows, has a tile or two: where operands round, stretches are shorter, so that more of them run side by side.
    private const int ShortStretch = 128;

    /// <inheritdoc/>
    public void MatMul(View c, View a, View b, in MatMulArgs args)
    {
        const string Op = nameof(MatMul);
        Check.Product(args);
        if (args.M == 0 || args.N == 0 || args.Batch == 0)
            return;
        if (a.Type == DType.BF16 || c.Type == DType.BF16)
        {
            HalvesProduct(c, a, b, args);
            return;
        }
        RequireMatrix(a, DType.F32, args.TransA ? args.K : args.M, args.TransA ? args.M : args.K, args.RowStrideA, args.Batch, args.StrideA, Op, nameof(a));
        RequireMatrix(b, b.Type, args.TransB ? args.N : args.K, args.TransB ? args.K : args.N, args.RowStrideB, args.Batch, args.StrideB, Op, nameof(b));
        RequireMatrix(c, DType.F32, args.M, args.N, args.RowStrideC, args.Batch, args.StrideC, Op, nameof(c));
        MatMulParams p = new()
        {
            A = a.Address,
            B = b.Packing is null ? b.Address : 0,
            C = c.Address,
            StrideA = args.StrideA,
            StrideB = args.StrideB,
            StrideC = args.StrideC,
            M = args.M,
            N = args.N,
            K = args.K,
            LdA = args.RowStrideA,
            LdB = args.RowStrideB,
            LdC = args.RowStrideC,
            Accumulate = args.Accumulate ? 1 : 0,
            Summed = args is { Batch: > 1, StrideC: 0 } ? args.Batch : 1,
        };
        if (b.Packing is not { } packing)
        {
            Product(p, b.Type, args);
            return;
        }
        // Batches of packed matrices are rare: one product after the other.
        p.Summed = 1;
        MatMulArgs each = args with { Batch = 1 };
        for (int i = 0; i < args.Batch; i++)
        {
            MatMulParams part = p;
            part.A += (nint)(i * args.StrideA * sizeof(float));
            part.C += (nint)(i * args.StrideC * sizeof(float));
            PackedProduct(part, b.Slice(i * args.StrideB, b.Length - (i * args.StrideB)), packing, each);
        }
    }

    private void Product(MatMulParams p, DType weight, in MatMulArgs args)
    {
        string type = Suffix(weight, nameof(MatMul));
        if (IsVector(args))
        {
            KernelArguments k = default;
            k.Add(p);
            Kernel(Products, $"matvec_{type}_{Rows248(args.M)}").Launch(new(Blocks(args.N, VectorTile)), new(Threads), 0, ref k);
        }
        else if (Rounds(args))
            RoundedProduct(p, weight, args);
        else if (!ByLibrary(p, args, weight))
            ByTiles(p, args, weight.Size(), "", type);
    }

    private static bool IsVector(in MatMulArgs args) => args is { Batch: 1, TransA: false, TransB: true, M: <= VectorRows };

    // form: what stands before the type in the kernel's name.
    private void ByTiles(in MatMulParams p, in MatMulArgs args, int size, string form, string type)
    {
        string kernel = $"matmul_{form}{(args.TransA ? 't' : 'n')}{(args.TransB ? 't' : 'n')}_{type}";
        if (args.Batch == 1 && IsCut(args.N, args.K) && args.RowStrideC == args.N)
        {
            int stretch = args.TransA && form.Length > 0 ? ShortStretch : Stretch;
            // Rows in parts, which bounds the memory for the sums.
            for (int row = 0; row < args.M; row += StretchRows)
            {
                int rows = Math.Min(StretchRows, args.M - row);
                ByStretches(new View(p.C + (nint)(sizeof(float) * (long)row * args.N), (long)rows * args.N, DType.F32), p with { A = p.A + (nint)(sizeof(float) * (args.TransA ? row : (long)row * args.RowStrideA)), M = rows },
                    args with { M = rows, LdA = args.RowStrideA, LdB = args.RowStrideB }, size, kernel, stretch);
            }
            return;
        }
        Tiles(p, args, size, kernel);
    }

    private static bool IsCut(int columns, int depth) => columns <= ThinColumns && depth >= 2 * Stretch;

    private void Tiles(in MatMulParams p, in MatMulArgs args, int sizeOfB, string name)
    {
        CudaFunction kernel = Kernel(Products, name);
        uint tiles = Blocks((long)Blocks(args.M, Tile) * Blocks(args.N, Tile), 1);
        // A grid is 65535 high at most; batches above that go in several launches.
        int launches = args.Batch / p.Summed;
        for (int first = 0; first < launches; first += GridY)
        {
            MatMulParams part = p;
            part.A += (nint)(first * args.StrideA * sizeof(float));
            part.B += (nint)(first * args.StrideB * sizeOfB);
            part.C += (nint)(first * args.StrideC * sizeof(float));
            KernelArguments one = default;
            one.Add(part);
            kernel.Launch(new(tiles, (uint)Math.Min(GridY, launches - first)), new(TileThreads), 0, ref one);
        }
    }

    // The stretches of K as a batch of products, then their sums in order.
    private void ByStretches(View c, in MatMulParams p, in MatMulArgs args, int sizeOfB, string kernel, int stretch)
    {
        long product = (long)args.M * args.N, stepA = args.TransA ? (long)stretch * args.RowStrideA : stretch, stepB = args.TransB ? stretch : (long)stretch * args.RowStrideB;
        int whole = args.K / stretch, rest = args.K % stretch, count = whole + (rest > 0 ? 1 : 0);
        long sums = (sizeof(float) * product * count + 255) & ~255L;
        nint partial = Scratch(sums + sizeof(double) * product * Blocks(count, ColChunk));
        MatMulParams part = p with { C = partial, K = stretch, StrideA = stepA, StrideB = stepB, StrideC = product, LdC = args.N, Accumulate = 0, Summed = 1 };
        Tiles(part, args with { Batch = whole, K = stretch, StrideA = stepA, StrideB = stepB, StrideC = product }, sizeOfB, kernel);
        if (rest > 0)
            Tiles(part with { A = p.A + (nint)(whole * stepA * sizeof(float)), B = p.B + (nint)(whole * stepB * sizeOfB), C = partial + (nint)(whole * product * sizeof(float)), K = rest }, args with { K = rest }, sizeOfB, kernel);
        SumCols(s_terms[0], c, new View(partial, product * count, DType.F32), default, default, 1, count, checked((int)product), args.Accumulate, partial + (nint)sums);
    }

    /// <inheritdoc/>
    public void MatMulTerm(View y, View x, View w, View down, View u, ReadOnlySpan<TermSegment> segments, View room, in TermArgs args)
    {
        // As one launch where all rows belong to one segment without an M, or with one: z = x·Downᵀ, z·M, then both products in one kernel.
        // Not where the products alone would be cut by their depth, round or go to the library: their bits are asked for.
        (int rows, int outputs, int inputs, int r) = args;
        if (rows <= VectorRows || Precision != CudaPrecision.Exact || segments.Length != 1 || segments[0].Start != 0 || segments[0].Count != rows || w.Packing is { Code: null } || IsCut(outputs, inputs) || IsCut(outputs, r)
            || (w.Packing is null && IsForLibrary(new MatMulArgs(rows, outputs, inputs, TransB: true), w.Type)) || IsForLibrary(new MatMulArgs(rows, outputs, r, TransB: true), DType.F32))
        {
            TermArgs.OneByOne(this, y, x, w, down, u, segments, room, args);
            return;
        }
        View z = room.Slice(0, (long)rows * r), mixed = z;
        MatMul(z, x, down, new MatMulArgs(rows, r, inputs, TransB: true));
        if (!segments[0].M.IsEmpty)
        {
            mixed = room.Slice((long)rows * r, (long)rows * r);
            MatMul(mixed, z, segments[0].M, new MatMulArgs(rows, r, r));
        }
        RequireMatrix(y, DType.F32, rows, outputs, outputs, 1, 0, nameof(MatMulTerm), nameof(y));
        RequireMatrix(w, w.Type, outputs, inputs, inputs, 1, 0, nameof(MatMulTerm), nameof(w));
        RequireMatrix(u, DType.F32, outputs, r, r, 1, 0, nameof(MatMulTerm), nameof(u));
        KernelArguments k = default;
        k.Add(new MatMulParams
        {
            A = x.Address,
            B = w.Packing is null ? w.Address : 0,
            C = y.Address,
            TermA = mixed.Address,
            TermB = u.Address,
            M = rows,
            N = outputs,
            K = inputs,
            LdA = inputs,
            LdB = inputs,
            LdC = outputs,
            Summed = 1,
            Rank = r,
        });
        if (w.Packing is { } packing)
            k.Add(CodesOf(w, packing));
        CudaFunction kernel = w.Packing is null ? Kernel(Products, "matmul_term_" + Suffix(w.Type, nameof(MatMulTerm))) : Kernel(Codes, "matmul_codes_term");
        kernel.Launch(new(Blocks((long)Blocks(rows, Tile) * Blocks(outputs, Tile), 1)), new(TileThreads), 0, ref k);
    }

    // The least of the row counts that kernels for few rows are made for.
    private static int Rows248(int rows) => rows <= 1 ? 1 : rows <= 2 ? 2 : rows <= 4 ? 4 : VectorRows;

    private static string Suffix(DType weight, string op) => weight switch
    {
        DType.F32 => "f32",
        DType.F16 => "f16",
        DType.BF16 => "bf16",
        _ => throw new ArgumentException($"{op}: a weight of {weight}; needs F32, F16, BF16 or Packed"),
    };

    private static void RequireMatrix(View v, DType type, int rows, int cols, int rowStride, int batch, long stride, string op, string operand)
    {
        if (rowStride < cols && rows > 1)
            throw new ArgumentException($"{op}: rows of {operand} are {rowStride} apart and hold {cols} elements");
        v.Require(rows == 0 || cols == 0 ? 0 : (long)(batch - 1) * stride + (long)(rows - 1) * rowStride + cols, type, op, operand);
    }

    /// <summary>Operands of the products; laid out as MatMulParams in kernels/matmul.cuh.</summary>
    [StructLayout(LayoutKind.Sequential)]
    private record struct MatMulParams
    {
        public nint A;
        public nint B;
        public nint C;
        public nint Bias;
        public nint Residual;
        public nint Gate;
        public nint Up;
        public nint TermA;
        public nint TermB;
        public long StrideA;
        public long StrideB;
        public long StrideC;
        public int M;
        public int N;
        public int K;
        public int LdA;
        public int LdB;
        public int LdC;
        public int Accumulate;
        public int Summed;
        public int Rank;
        public int Halves;
    }
}
