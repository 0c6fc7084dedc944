using System.Numerics;
using System.Runtime.CompilerServices;
using System.Runtime.Intrinsics;
using System.Runtime.Intrinsics.X86;

namespace Repeng.PtxEmulator.Compilation;

/// <summary>
/// What compiled code is made of: one method an instruction, for 32 lanes side by side. The compiler finds them by name (<see cref="VectorNames"/>) and calls them in IL
/// it emits, where the JIT inlines them. Parameter types say what an operand must be: a pointer to 32 values of its width, <c>uint</c> for a predicate's bits,
/// <c>int</c> for a constant. Destinations come first; a <c>uint</c> result is a predicate.
/// </summary>
internal static unsafe partial class VectorOps
{
    private const MethodImplOptions Inline = MethodImplOptions.AggressiveInlining;

    private interface IOne<T>
    {
        static abstract Vector512<T> Do(Vector512<T> a);
    }

    private interface ITwo<T>
    {
        static abstract Vector512<T> Do(Vector512<T> a, Vector512<T> b);
    }

    private interface IThree<T>
    {
        static abstract Vector512<T> Do(Vector512<T> a, Vector512<T> b, Vector512<T> c);
    }

    private interface ICompare<T>
    {
        static abstract Vector512<T> Do(Vector512<T> a, Vector512<T> b);
    }

    [MethodImpl(Inline)]
    private static void Map<T, TOp>(T* d, T* a) where T : unmanaged where TOp : IOne<T>
    {
        for (int k = 0; k < 32; k += Vector512<T>.Count)
            TOp.Do(Vector512.Load(a + k)).Store(d + k);
    }

    [MethodImpl(Inline)]
    private static void Map<T, TOp>(T* d, T* a, T* b) where T : unmanaged where TOp : ITwo<T>
    {
        for (int k = 0; k < 32; k += Vector512<T>.Count)
            TOp.Do(Vector512.Load(a + k), Vector512.Load(b + k)).Store(d + k);
    }

    [MethodImpl(Inline)]
    private static void Map<T, TOp>(T* d, T* a, T* b, T* c) where T : unmanaged where TOp : IThree<T>
    {
        for (int k = 0; k < 32; k += Vector512<T>.Count)
            TOp.Do(Vector512.Load(a + k), Vector512.Load(b + k), Vector512.Load(c + k)).Store(d + k);
    }

    [MethodImpl(Inline)]
    private static uint Test<T, TOp>(T* a, T* b) where T : unmanaged where TOp : ICompare<T>
    {
        uint result = 0;
        for (int k = 0; k < 32; k += Vector512<T>.Count)
            result |= (uint)TOp.Do(Vector512.Load(a + k), Vector512.Load(b + k)).ExtractMostSignificantBits() << k;
        return result;
    }

    private readonly struct OpAdd<T> : ITwo<T> { [MethodImpl(Inline)] public static Vector512<T> Do(Vector512<T> a, Vector512<T> b) => a + b; }
    private readonly struct OpSub<T> : ITwo<T> { [MethodImpl(Inline)] public static Vector512<T> Do(Vector512<T> a, Vector512<T> b) => a - b; }
    private readonly struct OpMul<T> : ITwo<T> { [MethodImpl(Inline)] public static Vector512<T> Do(Vector512<T> a, Vector512<T> b) => a * b; }
    private readonly struct OpMad<T> : IThree<T> { [MethodImpl(Inline)] public static Vector512<T> Do(Vector512<T> a, Vector512<T> b, Vector512<T> c) => (a * b) + c; }
    private readonly struct OpAnd<T> : ITwo<T> { [MethodImpl(Inline)] public static Vector512<T> Do(Vector512<T> a, Vector512<T> b) => a & b; }
    private readonly struct OpOr<T> : ITwo<T> { [MethodImpl(Inline)] public static Vector512<T> Do(Vector512<T> a, Vector512<T> b) => a | b; }
    private readonly struct OpXor<T> : ITwo<T> { [MethodImpl(Inline)] public static Vector512<T> Do(Vector512<T> a, Vector512<T> b) => a ^ b; }
    private readonly struct OpNot<T> : IOne<T> { [MethodImpl(Inline)] public static Vector512<T> Do(Vector512<T> a) => ~a; }
    private readonly struct OpNeg<T> : IOne<T> { [MethodImpl(Inline)] public static Vector512<T> Do(Vector512<T> a) => Vector512<T>.Zero - a; }
    private readonly struct OpAbs<T> : IOne<T> { [MethodImpl(Inline)] public static Vector512<T> Do(Vector512<T> a) => Vector512.Abs(a); }
    private readonly struct OpMin<T> : ITwo<T> { [MethodImpl(Inline)] public static Vector512<T> Do(Vector512<T> a, Vector512<T> b) => Vector512.Min(a, b); }
    private readonly struct OpMax<T> : ITwo<T> { [MethodImpl(Inline)] public static Vector512<T> Do(Vector512<T> a, Vector512<T> b) => Vector512.Max(a, b); }
    private readonly struct OpEq<T> : ICompare<T> { [MethodImpl(Inline)] public static Vector512<T> Do(Vector512<T> a, Vector512<T> b) => Vector512.Equals(a, b); }
    private readonly struct OpLt<T> : ICompare<T> { [MethodImpl(Inline)] public static Vector512<T> Do(Vector512<T> a, Vector512<T> b) => Vector512.LessThan(a, b); }
    private readonly struct OpLe<T> : ICompare<T> { [MethodImpl(Inline)] public static Vector512<T> Do(Vector512<T> a, Vector512<T> b) => Vector512.LessThanOrEqual(a, b); }

    [MethodImpl(Inline)] public static void add_16(ushort* d, ushort* a, ushort* b) => Map<ushort, OpAdd<ushort>>(d, a, b);
    [MethodImpl(Inline)] public static void add_32(uint* d, uint* a, uint* b) => Map<uint, OpAdd<uint>>(d, a, b);
    [MethodImpl(Inline)] public static void add_64(ulong* d, ulong* a, ulong* b) => Map<ulong, OpAdd<ulong>>(d, a, b);
    [MethodImpl(Inline)] public static void sub_16(ushort* d, ushort* a, ushort* b) => Map<ushort, OpSub<ushort>>(d, a, b);
    [MethodImpl(Inline)] public static void sub_32(uint* d, uint* a, uint* b) => Map<uint, OpSub<uint>>(d, a, b);
    [MethodImpl(Inline)] public static void sub_64(ulong* d, ulong* a, ulong* b) => Map<ulong, OpSub<ulong>>(d, a, b);
    [MethodImpl(Inline)] public static void mul_lo_16(ushort* d, ushort* a, ushort* b) => Map<ushort, OpMul<ushort>>(d, a, b);
    [MethodImpl(Inline)] public static void mul_lo_32(uint* d, uint* a, uint* b) => Map<uint, OpMul<uint>>(d, a, b);
    [MethodImpl(Inline)] public static void mul_lo_64(ulong* d, ulong* a, ulong* b) => Map<ulong, OpMul<ulong>>(d, a, b);
    [MethodImpl(Inline)] public static void mad_lo_16(ushort* d, ushort* a, ushort* b, ushort* c) => Map<ushort, OpMad<ushort>>(d, a, b, c);
    [MethodImpl(Inline)] public static void mad_lo_32(uint* d, uint* a, uint* b, uint* c) => Map<uint, OpMad<uint>>(d, a, b, c);
    [MethodImpl(Inline)] public static void mad_lo_64(ulong* d, ulong* a, ulong* b, ulong* c) => Map<ulong, OpMad<ulong>>(d, a, b, c);
    [MethodImpl(Inline)] public static void and_16(ushort* d, ushort* a, ushort* b) => Map<ushort, OpAnd<ushort>>(d, a, b);
    [MethodImpl(Inline)] public static void and_32(uint* d, uint* a, uint* b) => Map<uint, OpAnd<uint>>(d, a, b);
    [MethodImpl(Inline)] public static void and_64(ulong* d, ulong* a, ulong* b) => Map<ulong, OpAnd<ulong>>(d, a, b);
    [MethodImpl(Inline)] public static void or_16(ushort* d, ushort* a, ushort* b) => Map<ushort, OpOr<ushort>>(d, a, b);
    [MethodImpl(Inline)] public static void or_32(uint* d, uint* a, uint* b) => Map<uint, OpOr<uint>>(d, a, b);
    [MethodImpl(Inline)] public static void or_64(ulong* d, ulong* a, ulong* b) => Map<ulong, OpOr<ulong>>(d, a, b);
    [MethodImpl(Inline)] public static void xor_16(ushort* d, ushort* a, ushort* b) => Map<ushort, OpXor<ushort>>(d, a, b);
    [MethodImpl(Inline)] public static void xor_32(uint* d, uint* a, uint* b) => Map<uint, OpXor<uint>>(d, a, b);
    [MethodImpl(Inline)] public static void xor_64(ulong* d, ulong* a, ulong* b) => Map<ulong, OpXor<ulong>>(d, a, b);
    [MethodImpl(Inline)] public static void not_16(ushort* d, ushort* a) => Map<ushort, OpNot<ushort>>(d, a);
    [MethodImpl(Inline)] public static void not_32(uint* d, uint* a) => Map<uint, OpNot<uint>>(d, a);
    [MethodImpl(Inline)] public static void not_64(ulong* d, ulong* a) => Map<ulong, OpNot<ulong>>(d, a);
    [MethodImpl(Inline)] public static void neg_16(ushort* d, ushort* a) => Map<ushort, OpNeg<ushort>>(d, a);
    [MethodImpl(Inline)] public static void neg_32(uint* d, uint* a) => Map<uint, OpNeg<uint>>(d, a);
    [MethodImpl(Inline)] public static void neg_64(ulong* d, ulong* a) => Map<ulong, OpNeg<ulong>>(d, a);
    [MethodImpl(Inline)] public static void abs_s32(int* d, int* a) => Map<int, OpAbs<int>>(d, a);
    [MethodImpl(Inline)] public static void abs_s64(long* d, long* a) => Map<long, OpAbs<long>>(d, a);
    [MethodImpl(Inline)] public static void min_s32(int* d, int* a, int* b) => Map<int, OpMin<int>>(d, a, b);
    [MethodImpl(Inline)] public static void min_u32(uint* d, uint* a, uint* b) => Map<uint, OpMin<uint>>(d, a, b);
    [MethodImpl(Inline)] public static void min_s64(long* d, long* a, long* b) => Map<long, OpMin<long>>(d, a, b);
    [MethodImpl(Inline)] public static void min_u64(ulong* d, ulong* a, ulong* b) => Map<ulong, OpMin<ulong>>(d, a, b);
    [MethodImpl(Inline)] public static void max_s32(int* d, int* a, int* b) => Map<int, OpMax<int>>(d, a, b);
    [MethodImpl(Inline)] public static void max_u32(uint* d, uint* a, uint* b) => Map<uint, OpMax<uint>>(d, a, b);
    [MethodImpl(Inline)] public static void max_s64(long* d, long* a, long* b) => Map<long, OpMax<long>>(d, a, b);
    [MethodImpl(Inline)] public static void max_u64(ulong* d, ulong* a, ulong* b) => Map<ulong, OpMax<ulong>>(d, a, b);

    [MethodImpl(Inline)] public static uint setp_eq_16(ushort* a, ushort* b) => Test<ushort, OpEq<ushort>>(a, b);
    [MethodImpl(Inline)] public static uint setp_lt_u16(ushort* a, ushort* b) => Test<ushort, OpLt<ushort>>(a, b);
    [MethodImpl(Inline)] public static uint setp_le_u16(ushort* a, ushort* b) => Test<ushort, OpLe<ushort>>(a, b);
    [MethodImpl(Inline)] public static uint setp_lt_s16(short* a, short* b) => Test<short, OpLt<short>>(a, b);
    [MethodImpl(Inline)] public static uint setp_le_s16(short* a, short* b) => Test<short, OpLe<short>>(a, b);
    [MethodImpl(Inline)] public static uint setp_eq_32(uint* a, uint* b) => Test<uint, OpEq<uint>>(a, b);
    [MethodImpl(Inline)] public static uint setp_lt_u32(uint* a, uint* b) => Test<uint, OpLt<uint>>(a, b);
    [MethodImpl(Inline)] public static uint setp_le_u32(uint* a, uint* b) => Test<uint, OpLe<uint>>(a, b);
    [MethodImpl(Inline)] public static uint setp_lt_s32(int* a, int* b) => Test<int, OpLt<int>>(a, b);
    [MethodImpl(Inline)] public static uint setp_le_s32(int* a, int* b) => Test<int, OpLe<int>>(a, b);
    [MethodImpl(Inline)] public static uint setp_eq_64(ulong* a, ulong* b) => Test<ulong, OpEq<ulong>>(a, b);
    [MethodImpl(Inline)] public static uint setp_lt_u64(ulong* a, ulong* b) => Test<ulong, OpLt<ulong>>(a, b);
    [MethodImpl(Inline)] public static uint setp_le_u64(ulong* a, ulong* b) => Test<ulong, OpLe<ulong>>(a, b);
    [MethodImpl(Inline)] public static uint setp_lt_s64(long* a, long* b) => Test<long, OpLt<long>>(a, b);
    [MethodImpl(Inline)] public static uint setp_le_s64(long* a, long* b) => Test<long, OpLe<long>>(a, b);

    [MethodImpl(Inline)] public static uint and_pred(uint a, uint b) => a & b;
    [MethodImpl(Inline)] public static uint or_pred(uint a, uint b) => a | b;
    [MethodImpl(Inline)] public static uint xor_pred(uint a, uint b) => a ^ b;
    [MethodImpl(Inline)] public static uint not_pred(uint a) => ~a;
    [MethodImpl(Inline)] public static uint mov_pred(uint a) => a;

    [MethodImpl(Inline)]
    public static void mov_16(ushort* d, ushort* a) => Vector512.Load(a).Store(d);

    [MethodImpl(Inline)]
    public static void mov_32(uint* d, uint* a)
    {
        Vector512.Load(a).Store(d);
        Vector512.Load(a + 16).Store(d + 16);
    }

    [MethodImpl(Inline)]
    public static void mov_64(ulong* d, ulong* a)
    {
        for (int k = 0; k < 32; k += 8)
            Vector512.Load(a + k).Store(d + k);
    }

    /// <summary>Bits of a predicate as a mask of each lane.</summary>
    [MethodImpl(Inline)]
    private static Vector512<uint> Mask32(uint p, int first)
        => ~Vector512.Equals(Vector512.Create(p >> first) & Vector512.Create(1u, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384, 32768), Vector512<uint>.Zero);

    [MethodImpl(Inline)]
    private static Vector512<ulong> Mask64(uint p, int first)
        => ~Vector512.Equals(Vector512.Create((ulong)(p >> first)) & Vector512.Create(1ul, 2, 4, 8, 16, 32, 64, 128), Vector512<ulong>.Zero);

    [MethodImpl(Inline)]
    public static void selp_16(ushort* d, ushort* a, ushort* b, uint p)
    {
        for (int lane = 0; lane < 32; lane++)
            d[lane] = (p >> lane & 1) != 0 ? a[lane] : b[lane];
    }

    [MethodImpl(Inline)]
    public static void selp_32(uint* d, uint* a, uint* b, uint p)
    {
        Vector512.ConditionalSelect(Mask32(p, 0), Vector512.Load(a), Vector512.Load(b)).Store(d);
        Vector512.ConditionalSelect(Mask32(p, 16), Vector512.Load(a + 16), Vector512.Load(b + 16)).Store(d + 16);
    }

    [MethodImpl(Inline)]
    public static void selp_64(ulong* d, ulong* a, ulong* b, uint p)
    {
        for (int k = 0; k < 32; k += 8)
            Vector512.ConditionalSelect(Mask64(p, k), Vector512.Load(a + k), Vector512.Load(b + k)).Store(d + k);
    }

    [MethodImpl(Inline)]
    public static void mul_wide_u32(ulong* d, uint* a, uint* b)
    {
        for (int k = 0; k < 32; k += 8)
            (Vector512.WidenLower(Vector256.Load(a + k).ToVector512Unsafe()) * Vector512.WidenLower(Vector256.Load(b + k).ToVector512Unsafe())).Store(d + k);
    }

    [MethodImpl(Inline)]
    public static void mul_wide_s32(long* d, int* a, int* b)
    {
        for (int k = 0; k < 32; k += 8)
            (Vector512.WidenLower(Vector256.Load(a + k).ToVector512Unsafe()) * Vector512.WidenLower(Vector256.Load(b + k).ToVector512Unsafe())).Store(d + k);
    }

    [MethodImpl(Inline)]
    public static void mad_wide_u32(ulong* d, uint* a, uint* b, ulong* c)
    {
        for (int k = 0; k < 32; k += 8)
            ((Vector512.WidenLower(Vector256.Load(a + k).ToVector512Unsafe()) * Vector512.WidenLower(Vector256.Load(b + k).ToVector512Unsafe())) + Vector512.Load(c + k)).Store(d + k);
    }

    [MethodImpl(Inline)]
    public static void mad_wide_s32(long* d, int* a, int* b, long* c)
    {
        for (int k = 0; k < 32; k += 8)
            ((Vector512.WidenLower(Vector256.Load(a + k).ToVector512Unsafe()) * Vector512.WidenLower(Vector256.Load(b + k).ToVector512Unsafe())) + Vector512.Load(c + k)).Store(d + k);
    }

    [MethodImpl(Inline)]
    public static void mul_hi_u32(uint* d, uint* a, uint* b)
    {
        for (int k = 0; k < 32; k++)
            d[k] = (uint)((ulong)a[k] * b[k] >> 32);
    }

    [MethodImpl(Inline)]
    public static void mul_hi_s32(int* d, int* a, int* b)
    {
        for (int k = 0; k < 32; k++)
            d[k] = (int)((long)a[k] * b[k] >> 32);
    }

    public static void div_u32(uint* d, uint* a, uint* b)
    {
        for (int k = 0; k < 32; k++)
            d[k] = b[k] == 0 ? uint.MaxValue : a[k] / b[k];
    }

    public static void rem_u32(uint* d, uint* a, uint* b)
    {
        for (int k = 0; k < 32; k++)
            d[k] = b[k] == 0 ? a[k] : a[k] % b[k];
    }

    public static void div_s32(int* d, int* a, int* b)
    {
        for (int k = 0; k < 32; k++)
            d[k] = b[k] == 0 ? -1 : b[k] == -1 ? unchecked(-a[k]) : a[k] / b[k];
    }

    public static void rem_s32(int* d, int* a, int* b)
    {
        for (int k = 0; k < 32; k++)
            d[k] = b[k] == 0 ? a[k] : b[k] == -1 ? 0 : a[k] % b[k];
    }

    [MethodImpl(Inline)]
    public static void shl_const_32(uint* d, uint* a, int by)
    {
        for (int k = 0; k < 32; k += 16)
            ((uint)by >= 32 ? Vector512<uint>.Zero : Vector512.ShiftLeft(Vector512.Load(a + k), by)).Store(d + k);
    }

    [MethodImpl(Inline)]
    public static void shl_const_64(ulong* d, ulong* a, int by)
    {
        for (int k = 0; k < 32; k += 8)
            ((uint)by >= 64 ? Vector512<ulong>.Zero : Vector512.ShiftLeft(Vector512.Load(a + k), by)).Store(d + k);
    }

    [MethodImpl(Inline)]
    public static void shl_const_16(ushort* d, ushort* a, int by) => ((uint)by >= 16 ? Vector512<ushort>.Zero : Vector512.ShiftLeft(Vector512.Load(a), by)).Store(d);

    [MethodImpl(Inline)]
    public static void shr_const_u16(ushort* d, ushort* a, int by) => ((uint)by >= 16 ? Vector512<ushort>.Zero : Vector512.ShiftRightLogical(Vector512.Load(a), by)).Store(d);

    [MethodImpl(Inline)]
    public static void shr_const_s16(short* d, short* a, int by) => Vector512.ShiftRightArithmetic(Vector512.Load(a), (int)Math.Min((uint)by, 15)).Store(d);

    [MethodImpl(Inline)]
    public static void shr_const_u32(uint* d, uint* a, int by)
    {
        for (int k = 0; k < 32; k += 16)
            ((uint)by >= 32 ? Vector512<uint>.Zero : Vector512.ShiftRightLogical(Vector512.Load(a + k), by)).Store(d + k);
    }

    [MethodImpl(Inline)]
    public static void shr_const_s32(int* d, int* a, int by)
    {
        for (int k = 0; k < 32; k += 16)
            Vector512.ShiftRightArithmetic(Vector512.Load(a + k), (int)Math.Min((uint)by, 31)).Store(d + k);
    }

    [MethodImpl(Inline)]
    public static void shr_const_u64(ulong* d, ulong* a, int by)
    {
        for (int k = 0; k < 32; k += 8)
            ((uint)by >= 64 ? Vector512<ulong>.Zero : Vector512.ShiftRightLogical(Vector512.Load(a + k), by)).Store(d + k);
    }

    [MethodImpl(Inline)]
    public static void shr_const_s64(long* d, long* a, int by)
    {
        for (int k = 0; k < 32; k += 8)
            Vector512.ShiftRightArithmetic(Vector512.Load(a + k), (int)Math.Min((uint)by, 63)).Store(d + k);
    }

    [MethodImpl(Inline)]
    public static void shl_32(uint* d, uint* a, uint* by)
    {
        for (int k = 0; k < 32; k++)
            d[k] = by[k] >= 32 ? 0 : a[k] << (int)by[k];
    }

    [MethodImpl(Inline)]
    public static void shl_64(ulong* d, ulong* a, uint* by)
    {
        for (int k = 0; k < 32; k++)
            d[k] = by[k] >= 64 ? 0 : a[k] << (int)by[k];
    }

    [MethodImpl(Inline)]
    public static void shr_u32(uint* d, uint* a, uint* by)
    {
        if (Avx512F.IsSupported)
        {
            Avx512F.ShiftRightLogicalVariable(Vector512.Load(a), Vector512.Load(by)).Store(d);
            Avx512F.ShiftRightLogicalVariable(Vector512.Load(a + 16), Vector512.Load(by + 16)).Store(d + 16);
            return;
        }

        for (int k = 0; k < 32; k++)
            d[k] = by[k] >= 32 ? 0 : a[k] >> (int)by[k];
    }

    [MethodImpl(Inline)]
    public static void shr_s32(int* d, int* a, uint* by)
    {
        for (int k = 0; k < 32; k++)
            d[k] = a[k] >> (int)Math.Min(by[k], 31);
    }

    [MethodImpl(Inline)]
    public static void shf_left_const(uint* d, uint* a, uint* b, int by)
    {
        for (int k = 0; k < 32; k += 16)
            (by == 0 ? Vector512.Load(b + k) : by == 32 ? Vector512.Load(a + k) : Vector512.ShiftLeft(Vector512.Load(b + k), by) | Vector512.ShiftRightLogical(Vector512.Load(a + k), 32 - by)).Store(d + k);
    }

    [MethodImpl(Inline)]
    public static void shf_right_const(uint* d, uint* a, uint* b, int by)
    {
        for (int k = 0; k < 32; k += 16)
            (by == 0 ? Vector512.Load(a + k) : by == 32 ? Vector512.Load(b + k) : Vector512.ShiftRightLogical(Vector512.Load(a + k), by) | Vector512.ShiftLeft(Vector512.Load(b + k), 32 - by)).Store(d + k);
    }

    [MethodImpl(Inline)]
    public static void bfe_const_u32(uint* d, uint* a, int at, int length)
    {
        uint mask = length >= 32 ? uint.MaxValue : (1u << length) - 1;
        for (int k = 0; k < 32; k += 16)
            (at >= 32 ? Vector512<uint>.Zero : Vector512.ShiftRightLogical(Vector512.Load(a + k), at) & Vector512.Create(mask)).Store(d + k);
    }

    public static void lop3(uint* d, uint* a, uint* b, uint* c, int table)
    {
        for (int k = 0; k < 32; k += 16)
        {
            Vector512<uint> x = Vector512.Load(a + k), y = Vector512.Load(b + k), z = Vector512.Load(c + k), r = Vector512<uint>.Zero;
            for (int t = 0; t < 8; t++)
                if ((table >> t & 1) != 0)
                    r |= ((t & 4) != 0 ? x : ~x) & ((t & 2) != 0 ? y : ~y) & ((t & 1) != 0 ? z : ~z);
            r.Store(d + k);
        }
    }

    public static void popc_32(uint* d, uint* a)
    {
        for (int k = 0; k < 32; k++)
            d[k] = (uint)BitOperations.PopCount(a[k]);
    }

    public static void clz_32(uint* d, uint* a)
    {
        for (int k = 0; k < 32; k++)
            d[k] = (uint)BitOperations.LeadingZeroCount(a[k]);
    }
}
