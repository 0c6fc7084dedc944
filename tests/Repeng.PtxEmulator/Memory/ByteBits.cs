using System.Runtime.InteropServices;
using System.Runtime.Intrinsics;

namespace Repeng.PtxEmulator.Memory;

/// <summary>One bit a byte of memory: has it been written?</summary>
internal sealed unsafe class ByteBits : IDisposable
{
    /// <summary>Bytes behind the end, so that whole vectors may be read and written.</summary>
    private const int Beyond = 72;

    private readonly long _bytes;
    private byte* _bits;

    public ByteBits(long bytes)
    {
        _bytes = (bytes + 7) / 8;
        _bits = (byte*)NativeMemory.AllocZeroed((nuint)_bytes + Beyond);
    }

    public bool Test(long at, int count)
    {
        while (count > 0)
        {
            int shift = (int)(at & 7), take = Math.Min(count, 57 - 1);
            ulong mask = ulong.MaxValue >> (64 - take);
            if ((*(ulong*)(_bits + (at >> 3)) >> shift & mask) != mask)
                return false;
            at += take;
            count -= take;
        }

        return true;
    }

    public void Set(long at, long count)
    {
        // Most often whole words of 16 bytes.
        if ((at & 7) == 0 && (count & 15) == 0 && count <= 512)
        {
            for (byte* to = _bits + (at >> 3), end = to + (count >> 3); to < end; to += 2)
                *(ushort*)to = ushort.MaxValue;
            return;
        }

        while (count > 0 && (at & 7) != 0)
        {
            _bits[at >> 3] |= (byte)(1 << (int)(at & 7));
            at++;
            count--;
        }

        long whole = count >> 3;
        if (whole > 0)
            NativeMemory.Fill(_bits + (at >> 3), (nuint)whole, 0xff);
        at += whole << 3;
        for (count &= 7; count > 0; count--, at++)
            _bits[at >> 3] |= (byte)(1 << (int)(at & 7));
    }

    /// <summary>Marks up to eight bytes at once.</summary>
    public void SetFew(long at, int count) => *(ulong*)(_bits + (at >> 3)) |= (ulong.MaxValue >> (64 - count)) << (int)(at & 7);

    /// <summary>Whether any of up to 32 bytes is marked.</summary>
    public bool Any(long at, int count)
    {
        ulong bits = *(ulong*)(_bits + (at >> 3)) >> (int)(at & 7);
        return (bits & (ulong.MaxValue >> (64 - count))) != 0;
    }

    public void ClearRange(long at, long count)
    {
        if ((at & 7) == 0 && (count & 15) == 0)
        {
            for (byte* to = _bits + (at >> 3), end = to + (count >> 3); to < end; to += 2)
                *(ushort*)to = 0;
            return;
        }

        for (; count > 0 && ((at & 7) != 0 || count < 8); count--, at++)
            _bits[at >> 3] &= (byte)~(1 << (int)(at & 7));
        for (; count >= 8; count -= 8, at += 8)
            _bits[at >> 3] = 0;
        for (; count > 0; count--, at++)
            _bits[at >> 3] &= (byte)~(1 << (int)(at & 7));
    }

    public void Clear() => NativeMemory.Clear(_bits, (nuint)_bytes + Beyond);

    /// <summary>Whether all the bytes are marked whose bits are set in <paramref name="pattern"/>: whole vectors of words, from the multiple of 32 at or before <paramref name="at"/>.</summary>
    public bool TestAll(long at, uint[] pattern)
    {
        uint* bits = (uint*)_bits + (at >> 5);
        ref uint wanted = ref MemoryMarshal.GetArrayDataReference(pattern);
        Vector512<uint> missing = Vector512<uint>.Zero;
        for (nuint k = 0; k < (nuint)pattern.Length; k += 16)
            missing |= Vector512.AndNot(Vector512.LoadUnsafe(ref wanted, k), Vector512.Load(bits + k));
        return missing == Vector512<uint>.Zero;
    }

    /// <summary>Whether any of the bytes of a pattern is marked.</summary>
    public bool TestAny(long at, uint[] pattern)
    {
        uint* bits = (uint*)_bits + (at >> 5);
        ref uint wanted = ref MemoryMarshal.GetArrayDataReference(pattern);
        Vector512<uint> found = Vector512<uint>.Zero;
        for (nuint k = 0; k < (nuint)pattern.Length; k += 16)
            found |= Vector512.LoadUnsafe(ref wanted, k) & Vector512.Load(bits + k);
        return found != Vector512<uint>.Zero;
    }

    /// <summary>Marks the bytes of a pattern.</summary>
    public void SetAll(long at, uint[] pattern)
    {
        uint* bits = (uint*)_bits + (at >> 5);
        ref uint wanted = ref MemoryMarshal.GetArrayDataReference(pattern);
        for (nuint k = 0; k < (nuint)pattern.Length; k += 16)
            (Vector512.LoadUnsafe(ref wanted, k) | Vector512.Load(bits + k)).Store(bits + k);
    }

    /// <summary>Takes the marks from the bytes of a pattern.</summary>
    public void ClearAll(long at, uint[] pattern)
    {
        uint* bits = (uint*)_bits + (at >> 5);
        ref uint wanted = ref MemoryMarshal.GetArrayDataReference(pattern);
        for (nuint k = 0; k < (nuint)pattern.Length; k += 16)
            Vector512.AndNot(Vector512.Load(bits + k), Vector512.LoadUnsafe(ref wanted, k)).Store(bits + k);
    }

    /// <summary>Copies the marks of a range, for copies from device to device.</summary>
    public void CopyFrom(ByteBits? source, long from, long to, long count)
    {
        if (source is null)
        {
            Set(to, count);
            return;
        }

        for (long k = 0; k < count; k++)
            if (source.Test(from + k, 1))
                Set(to + k, 1);
            else
                ClearRange(to + k, 1);
    }

    public void Dispose()
    {
        NativeMemory.Free(_bits);
        _bits = null;
        GC.SuppressFinalize(this);
    }

    ~ByteBits() => NativeMemory.Free(_bits);
}
