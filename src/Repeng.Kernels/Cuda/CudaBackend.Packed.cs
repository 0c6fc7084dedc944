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
    private const int UnpackCodesTile = 16384, UnpackBlocksTile = 1024, UnpackBlocksThreads = 128, BlockVectorTile = 8, Eight = 8, Int8Type = -1;

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
            Kernel(BlocksImage, type == DType.BF16 ? "unpack_blocks_bf16" : "unpack_blocks").Launch(new(Blocks((packed.Start % Eight) + packed.Length, UnpackBlocksTile)), new(UnpackBlocksThreads), 0, ref k);
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
            Kernel(BlocksImage, "lookup_blocks").Launch(new((uint)rows, Blocks(dim, UnpackBlocksTile)), new(UnpackBlocksThreads), 0, ref k);
            return;
        }
        k.Add(y).Add(CodesOf(table, packing)).Add(ids).Add(dim).Add(scale);
        Kernel(Codes, "lookup_codes").Launch(new((uint)rows, Blocks(dim, FlatTile)), new(Threads), 0, ref k);
    }

    // The product of one matrix; sizes are checked. p.B stays empty.
    private void PackedProduct(MatMulParams p, View b, Packing packing, in MatMulArgs args)
    {
        int length = args.TransB ? args.K : args.N, lines = args.TransB ? args.N : args.K;
        bool blocks = packing.Blocks is not null;
        // Where operands round, the weight is decoded to bf16 once: a tile of a large product is read by every row of tiles.
        // Else kernels take rows without gaps, of blocks whole ones, and A as it is; nothing of the engine asks for anything else. A thin product is
        // cut by its depth, for which its few rows are decoded.
        bool rounds = Rounds(args);
        if (rounds || args.TransA || (args.M > VectorRows && IsCut(args.N, args.K)) || (!args.TransB && IsCut(args.N, args.K)) || (args.RowStrideB != length && lines > 1) || (blocks && (length % Eight != 0 || b.Start % Eight != 0)))
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
        Dim3 grid = vector ? new(Blocks(args.N, codes ? VectorTile : BlockVectorTile)) : new(Blocks((long)Blocks(args.M, Tile) * Blocks(args.N, Tile), 1));
        KernelArguments k = default;
        k.Add(p);
        if (codes)
            k.Add(CodesOf(b, packing));
        else
            k.Add(BlocksOf(b, packing));
        Kernel(codes ? Codes : BlocksImage, kernel).Launch(grid, vector ? new(Threads) : new(TileThreads), 0, ref k);
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
    }
}
