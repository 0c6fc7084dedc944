using Repeng.PtxEmulator.Ir;
using Repeng.PtxEmulator.Syntax;

namespace Repeng.PtxEmulator.Execution;

/// <summary>
/// ldmatrix, movmatrix and mma.sync. Which element a lane's register holds follows the figures of PTX ISA 9.7.14; products are summed in double in the order of k,
/// beginning with the accumulator, and rounded once.
/// </summary>
internal static unsafe class MatrixInstructions
{
    private static void NeedAll(Warp warp, Instruction i, uint mask)
    {
        if (mask != uint.MaxValue)
            throw new InactiveLaneException($"all 32 lanes must execute this, {mask:x8} do", Faults.Site(warp, i, ~mask & warp.Full));
    }

    public static void LoadMatrix(Warp warp, Instruction i, uint mask)
    {
        NeedAll(warp, i, mask);
        Block block = warp.Block;
        byte** rows = stackalloc byte*[32];
        Span<ulong> addresses = stackalloc ulong[Warp.Lanes];
        int count = 8 * i.Count;
        for (int lane = 0; lane < count; lane++)
        {
            addresses[lane] = MemoryUnit.AddressOf(warp, i.Address, i.Offset, lane);
            if (i.Space == Space.Generic && addresses[lane] is < Memory.DeviceMemory.SharedWindow or >= Memory.DeviceMemory.LocalWindow)
                throw new OutOfBoundsException($"ldmatrix from 0x{addresses[lane]:x}, which is no shared memory", Faults.Site(warp, i, 1u << lane), addresses[lane]);
            rows[lane] = MemoryUnit.Access(warp, i, lane, i.Space, addresses[lane], 16, AccessKind.Read);
        }

        for (int matrix = 0; matrix < i.Count; matrix++)
        {
            byte** of = rows + (8 * matrix);
            for (int lane = 0; lane < Warp.Lanes; lane++)
            {
                int row = lane / 4, column = 2 * (lane % 4);
                uint low = i.Transposed ? ((ushort*)of[column])[row] : ((ushort*)of[row])[column];
                uint high = i.Transposed ? ((ushort*)of[column + 1])[row] : ((ushort*)of[row])[column + 1];
                warp.Write(i.Destinations[matrix], lane, low | (high << 16));
            }
        }

        MemoryInstructions.CheckLanes(warp, i, i.Space, addresses, count == 32 ? uint.MaxValue : (1u << count) - 1, 16, AccessKind.Read);
        if (block.Grid.Options.CountMemory)
            MemoryInstructions.Count(warp, Space.Shared, addresses, count == 32 ? uint.MaxValue : (1u << count) - 1, 16, write: false);
    }

    /// <summary>stmatrix, sm_90: what ldmatrix reads, written.</summary>
    public static void StoreMatrix(Warp warp, Instruction i, uint mask)
    {
        NeedAll(warp, i, mask);
        byte** rows = stackalloc byte*[32];
        Span<ulong> addresses = stackalloc ulong[Warp.Lanes];
        int count = 8 * i.Count;
        for (int lane = 0; lane < count; lane++)
        {
            addresses[lane] = MemoryUnit.AddressOf(warp, i.Address, i.Offset, lane);
            if (i.Space == Space.Generic && addresses[lane] is < Memory.DeviceMemory.SharedWindow or >= Memory.DeviceMemory.LocalWindow)
                throw new OutOfBoundsException($"stmatrix to 0x{addresses[lane]:x}, which is no shared memory", Faults.Site(warp, i, 1u << lane), addresses[lane]);
            rows[lane] = MemoryUnit.Access(warp, i, lane, i.Space, addresses[lane], 16, AccessKind.Write);
        }

        // Twice: a row that another overwrote with something else shows the second time.
        for (int pass = 0; pass < 2; pass++)
            for (int k = 0; k < 64 * i.Count; k++)
            {
                int matrix = k / 64, row = k / 8 % 8, column = k % 8, along = i.Transposed ? row : column, across = i.Transposed ? column : row;
                ushort value = (ushort)(warp.Read(i.Sources[matrix], (4 * across) + (along / 2)) >> (16 * (along & 1)));
                ref ushort at = ref ((ushort*)rows[(8 * matrix) + row])[column];
                if (pass == 0)
                    at = value;
                else if (at != value)
                    MemoryInstructions.SameInstruction(warp, i, (8 * matrix) + row, addresses[(8 * matrix) + row]);
            }

        if (warp.Block.Grid.Options.CountMemory)
            MemoryInstructions.Count(warp, Space.Shared, addresses, count == 32 ? uint.MaxValue : (1u << count) - 1, 16, write: true);
    }

    public static void Transpose(Warp warp, Instruction i, uint mask)
    {
        NeedAll(warp, i, mask);
        Span<ushort> elements = stackalloc ushort[64];
        for (int lane = 0; lane < Warp.Lanes; lane++)
        {
            ulong pair = warp.Read(i.Sources[0], lane);
            elements[(lane / 4 * 8) + (2 * (lane % 4))] = (ushort)pair;
            elements[(lane / 4 * 8) + (2 * (lane % 4)) + 1] = (ushort)(pair >> 16);
        }

        for (int lane = 0; lane < Warp.Lanes; lane++)
        {
            int column = lane / 4, row = 2 * (lane % 4);
            warp.Write(i.Destinations[0], lane, elements[(row * 8) + column] | ((ulong)elements[((row + 1) * 8) + column] << 16));
        }
    }

    /// <summary>Row and column of element <paramref name="k"/> of a lane's fragment of A (M × K).</summary>
    public static (int Row, int Column) PlaceA(int bits, (int M, int N, int K) shape, int lane, int k)
    {
        int group = lane >> 2, inGroup = lane & 3;
        if (bits == 64)
            return (group, inGroup);
        // Registers go by rows (0 and +8) first, then by columns; each holds 32/bits neighbours.
        int each = 32 / bits, register = k / each, inside = k % each;
        int row = group + (shape.M == 16 ? 8 * (register & 1) : 0);
        int block = shape.M == 16 ? register >> 1 : register;
        return (row, (block * 4 * each) + (inGroup * each) + inside);
    }

    /// <summary>Row and column of element <paramref name="k"/> of a lane's fragment of B (K × N).</summary>
    public static (int Row, int Column) PlaceB(int bits, int lane, int k)
    {
        int group = lane >> 2, inGroup = lane & 3;
        if (bits == 64)
            return (inGroup, group);
        int each = 32 / bits, register = k / each, inside = k % each;
        return ((register * 4 * each) + (inGroup * each) + inside, group);
    }

    /// <summary>Row and column of element <paramref name="k"/> of a lane's fragment of C and D (M × 8).</summary>
    public static (int Row, int Column) PlaceC(int lane, int k) => ((lane >> 2) + (8 * (k >> 1)), (2 * (lane & 3)) + (k & 1));

    public static void Multiply(Warp warp, Instruction i, uint mask)
    {
        NeedAll(warp, i, mask);
        (int m, int n, int k) = i.Shape;
        warp.Block.Grid.Counters.MmaFlop += 2L * m * n * k;
        int bits = MmaShape.ElementBits(i.SourceType);
        (int registersA, int registersB, int registersC, _) = MmaShape.Registers(i)!.Value;
        if (bits <= 8)
            MultiplyIntegers(warp, i, bits, registersA, registersB);
        else
            MultiplyFloats(warp, i, bits, registersA, registersB, registersC);
    }

    private static void MultiplyFloats(Warp warp, Instruction i, int bits, int registersA, int registersB, int registersC)
    {
        (int m, int n, int k) = i.Shape;
        double* a = stackalloc double[m * k], b = stackalloc double[k * n], c = stackalloc double[m * n];
        int each = bits == 64 ? 1 : 32 / bits;
        for (int lane = 0; lane < Warp.Lanes; lane++)
        {
            for (int e = 0; e < registersA * each; e++)
            {
                (int row, int column) = PlaceA(bits, i.Shape, lane, e);
                a[(row * k) + column] = Element(warp, i.Sources[e / each], lane, e % each, bits, i.SourceType);
            }

            for (int e = 0; e < registersB * each; e++)
            {
                (int row, int column) = PlaceB(bits, lane, e);
                b[(row * n) + column] = Element(warp, i.Sources[registersA + (e / each)], lane, e % each, bits, i.SourceType);
            }

            bool half = i.ThirdType == PtxType.F16;
            for (int e = 0; e < m * n / 32; e++)
            {
                (int row, int column) = PlaceC(lane, e);
                Value register = i.Sources[registersA + registersB + (half ? e / 2 : e)];
                c[(row * n) + column] = half ? Element(warp, register, lane, e & 1, 16, PtxType.F16) : Floats.Widen(warp.Read(register, lane), i.ThirdType);
            }
        }

        for (int row = 0; row < m; row++)
            for (int column = 0; column < n; column++)
            {
                double sum = c[(row * n) + column];
                for (int at = 0; at < k; at++)
                    sum = Math.FusedMultiplyAdd(a[(row * k) + at], b[(at * n) + column], sum);
                c[(row * n) + column] = sum;
            }

        bool halves = i.Type == PtxType.F16;
        for (int lane = 0; lane < Warp.Lanes; lane++)
            for (int e = 0; e < m * n / 32; e += halves ? 2 : 1)
            {
                ulong Result(int which)
                {
                    (int row, int column) = PlaceC(lane, which);
                    return Floats.Narrow(c[(row * n) + column], i.Type, Rounding.Nearest);
                }

                warp.Write(i.Destinations[halves ? e / 2 : e], lane, halves ? Result(e) | (Result(e + 1) << 16) : Result(e));
            }
    }

    private static double Element(Warp warp, in Value register, int lane, int which, int bits, PtxType type)
        => Floats.Widen(warp.Read(register, lane) >> (which * bits % 64), type);

    private static void MultiplyIntegers(Warp warp, Instruction i, int bits, int registersA, int registersB)
    {
        (int m, int n, int k) = i.Shape;
        int* a = stackalloc int[m * k], b = stackalloc int[k * n];
        int each = 32 / bits;
        bool signedA = i.SourceType is PtxType.S8 or PtxType.S4, signedB = i.SecondType is PtxType.S8 or PtxType.S4;
        for (int lane = 0; lane < Warp.Lanes; lane++)
        {
            for (int e = 0; e < registersA * each; e++)
            {
                (int row, int column) = PlaceA(bits, i.Shape, lane, e);
                a[(row * k) + column] = Small(warp.Read(i.Sources[e / each], lane), e % each, bits, signedA);
            }

            for (int e = 0; e < registersB * each; e++)
            {
                (int row, int column) = PlaceB(bits, lane, e);
                b[(row * n) + column] = Small(warp.Read(i.Sources[registersA + (e / each)], lane), e % each, bits, signedB);
            }
        }

        for (int lane = 0; lane < Warp.Lanes; lane++)
            for (int e = 0; e < m * n / 32; e++)
            {
                (int row, int column) = PlaceC(lane, e);
                long sum = (int)warp.Read(i.Sources[registersA + registersB + e], lane);
                for (int at = 0; at < k; at++)
                    sum += a[(row * k) + at] * b[(at * n) + column];
                warp.Write(i.Destinations[e], lane, (uint)(i.Saturate ? (int)Math.Clamp(sum, int.MinValue, int.MaxValue) : (int)sum));
            }
    }

    private static int Small(ulong register, int which, int bits, bool signed)
    {
        int value = (int)(register >> (which * bits)) & ((1 << bits) - 1);
        return signed ? value << (32 - bits) >> (32 - bits) : value;
    }
}
