using System.Runtime.InteropServices;
using Repeng.Kernels.Cuda.Interop;
using Repeng.Kernels.Quantised;

namespace Repeng.Kernels.Cuda;

/// <summary>
/// Ops over packed weights, which stay as they are: tile products decode what they stage, products of few rows what they read.
/// 4-bit codes run by kernels/quantised.cu, blocks of ggml and LLM.int8 by kernels/blocks.cu.
/// </summary>
public sealed unsafe partial class CudaBackend
{
    private const string Codes = "quantised", BlocksImage = "blocks";
    private const int UnpackCodesTile = 16384, UnpackBlocksTile = 4096, UnpackBlocksThreads = 128, Int8Type = -1;

    // Elements of a block of int8 for the kernels, and of the stretch that all types' widths are given for.
    private const int Eight = 8, Width = 256;

    // Tiles that a block unpacks where it brings a grid to shared memory first.
    private const int GridTiles = 8;

    // Code books and grids on the device: a handful, brought there when they are first needed.
    private readonly Dictionary<string, nint> _tables = new(StringComparer.Ordinal);

    /// <inheritdoc/>
    public void Unpack(View y, View packed)
    {
        if (packed.Packing is not { } packing)
            throw new ArgumentException($"{nameof(Unpack)}: operand {nameof(packed)} is {packed.Type}, not packed");
        y.Require(packed.Length, DType.F32, nameof(Unpack), nameof(y));
        UnpackTo(y.Address, packed, packing);
    }

    private void UnpackTo(nint y, View packed, Packing packing, DType type = DType.F32)
    {
        KernelArguments k = default;
        if (packing.Code is null)
        {
            k.Add(y).Add(BlocksOf(packed, packing)).Add(packed.Length);
            int grid = GridBytes(packing);
            uint tiles = Blocks((packed.Start % Width) + packed.Length, UnpackBlocksTile);
            Kernel(BlocksImage, type == DType.BF16 ? "unpack_blocks_bf16" : "unpack_blocks").Launch(new(grid > 0 ? Blocks(tiles, GridTiles) : tiles), new(UnpackBlocksThreads), grid, ref k);
            return;
        }
        k.Add(CodesOf(packed, packing)).Add(y).Add(packed.Length);
        Kernel(Codes, type == DType.BF16 ? "unpack_codes_bf16" : "unpack_codes_f32").Launch(new(Blocks(packed.Length, UnpackCodesTile)), new(Threads), 0, ref k);
    }

    // y[i, :] = scale·table[ids[i], :].
    private void LookUp(View y, View table, Packing packing, View ids, int rows, int dim, float scale)
    {
        KernelArguments k = default;
        if (packing.Code is null)
        {
            k.Add(y).Add(BlocksOf(table, packing)).Add(ids).Add(dim).Add(scale);
            Kernel(BlocksImage, "lookup_blocks").Launch(new((uint)rows, Blocks(dim, UnpackBlocksTile)), new(UnpackBlocksThreads), GridBytes(packing), ref k);
            return;
        }
        k.Add(y).Add(CodesOf(table, packing)).Add(ids).Add(dim).Add(scale);
        Kernel(Codes, "lookup_codes").Launch(new((uint)rows, Blocks(dim, FlatTile)), new(Threads), 0, ref k);
    }

    // The product of one matrix; sizes are checked. p.B stays empty.
    private void PackedProduct(MatMulParams p, View b, Packing packing, in MatMulArgs args)
    {
        int length = args.TransB ? args.K : args.N, lines = args.TransB ? args.N : args.K;
        // Where operands round, the weight is decoded to bf16 once: a tile of a large product is read by every row of tiles.
        // Else kernels take rows without gaps and A as it is; nothing of the engine asks for anything else. A thin product is
        // cut by its depth, for which its few rows are decoded.
        bool rounds = Rounds(args);
        if (rounds || args.TransA || (args.M > VectorRows && IsCut(args.N, args.K)) || (!args.TransB && IsCut(args.N, args.K)) || (args.RowStrideB != length && lines > 1) || !ReadsRows(packing, b.Start, length))
        {
            View whole = b.Slice(0, lines == 0 || length == 0 ? 0 : ((long)(lines - 1) * args.RowStrideB) + length);
            if (rounds)
                p.B = DecodedWeight(whole, packing);
            else
                UnpackTo(p.B = Scratch(Math.Max(1, whole.Length) * sizeof(float), ref _unpacked), whole, packing);
            Product(p, rounds ? DType.BF16 : DType.F32, args with { LdB = args.RowStrideB });
            return;
        }
        bool vector = args.TransB && args.M <= VectorRows;
        bool codes = packing.Code is not null;
        string form = codes ? "codes" : "blocks", kernel = vector ? $"matvec_{form}_{Rows248(args.M)}" : $"matmul_{form}_n{(args.TransB ? 't' : 'n')}";
        Dim3 grid = vector ? new(Blocks(args.N, VectorTile)) : new(Blocks((long)Blocks(args.M, Tile) * Blocks(args.N, Tile), 1));
        KernelArguments k = default;
        k.Add(p);
        if (codes)
            k.Add(CodesOf(b, packing));
        else
            k.Add(BlocksOf(b, packing));
        Kernel(codes ? Codes : BlocksImage, kernel).Launch(grid, vector ? new(Threads) : new(TileThreads), codes ? 0 : vector ? VectorShared(packing, Rows248(args.M)) : TileShared(packing, args.TransB), ref k);
    }

    // Whether kernels can take rows of this length from there: of blocks whole ones, of int8 the matrix's own.
    private static bool ReadsRows(Packing packing, long start, int length) => packing.Code is not null
        || (packing.Blocks is { } type ? length % type.Elements == 0 && start % type.Elements == 0 : length % Eight == 0 && length == packing.Source->Columns && start % length == 0);

    // Bytes of 256 elements and of the grid of a form without code book; the room of a piece of bytes that may lie anywhere (kernels/blocks.cu).
    private static int WidthOf(Packing packing) => packing.Blocks is { } type ? Width / type.Elements * type.Bytes : Width;

    private static int GridBytes(Packing packing) => packing.Blocks is { } type && IqGrid.Of(type) is { } grid ? grid.Values.Length : 0;

    private static int PieceRoom(int bytes) => (bytes + 28) & ~15;

    private static int VectorShared(Packing packing, int rows)
    {
        int stretch = rows == 1 ? 4 * Width : rows == 8 ? Width : 2 * Width, grid = GridBytes(packing);
        int scales = grid == 0 && packing.Blocks is { Elements: Width } ? Eight * stretch : 0;
        return (2 * rows * stretch * sizeof(float)) + (2 * VectorTile * PieceRoom(stretch / Width * WidthOf(packing))) + scales + grid;
    }

    private static int TileShared(Packing packing, bool transB)
    {
        const int Stages = 32 * 1024;
        int width = WidthOf(packing), block = packing.Blocks?.Bytes ?? Eight;
        return Stages + (transB ? 64 * (PieceRoom(width > 224 ? width / 2 : width) | 16) : 32 * PieceRoom(Math.Max(block, width / 4))) + GridBytes(packing);
    }

    private CodesParams CodesOf(View v, Packing packing)
    {
        PackedSource* source = packing.Source;
        return new CodesParams
        {
            Data = (nint)source->Data,
            Code = Table(packing.Code!.Values),
            Absmax = source->ScaleCodes == null ? (nint)source->Scales : 0,
            ScaleCodes = (nint)source->ScaleCodes,
            NestedScales = (nint)source->NestedScales,
            NestedMap = (nint)source->NestedMap,
            Start = v.Start,
            Offset = source->Offset,
            BlockShift = source->BlockShift,
            NestedShift = source->NestedShift,
        };
    }

    private BlocksParams BlocksOf(View v, Packing packing)
    {
        PackedSource* source = packing.Source;
        return new BlocksParams
        {
            Data = (nint)source->Data,
            Scales = (nint)source->Scales,
            Grid = packing.Blocks is { } type && IqGrid.Of(type) is { } grid ? Table(type.Name, MemoryMarshal.AsBytes(grid.Values.AsSpan())) : 0,
            Start = v.Start,
            Type = packing.Blocks is { } known ? (int)known.GgmlId : Int8Type,
            Columns = source->Columns,
            Width = WidthOf(packing),
            Shift = int.Log2(packing.Blocks?.Elements ?? Eight),
        };
    }

    // Code books of the same values share a table.
    private nint Table(ReadOnlySpan<float> values) => Table(Convert.ToHexString(MemoryMarshal.AsBytes(values)), MemoryMarshal.AsBytes(values));

    private nint Table(string name, ReadOnlySpan<byte> bytes)
    {
        lock (_lock)
        {
            if (_tables.TryGetValue(name, out nint known))
                return known;
            nint address = Context.Allocate(bytes.Length);
            try
            {
                Context.Upload(address, bytes);
            }
            catch
            {
                Context.Free(address);
                throw;
            }
            _tables.Add(name, address);
            return address;
        }
    }

    /// <summary>Where 4-bit codes lie; laid out as CodesParams in kernels/quantised.cu.</summary>
    [StructLayout(LayoutKind.Sequential)]
    private record struct CodesParams
    {
        public nint Data;
        public nint Code;
        public nint Absmax;
        public nint ScaleCodes;
        public nint NestedScales;
        public nint NestedMap;
        public long Start;
        public float Offset;
        public int BlockShift;
        public int NestedShift;
        public int Reserved;
    }

    /// <summary>Where blocks or 8-bit rows lie; laid out as BlocksParams in kernels/blocks.cu.</summary>
    [StructLayout(LayoutKind.Sequential)]
    private record struct BlocksParams
    {
        public nint Data;
        public nint Scales;
        public nint Grid;
        public long Start;
        public int Type;
        public int Columns;
        public int Width;
        public int Shift;
    }
}
