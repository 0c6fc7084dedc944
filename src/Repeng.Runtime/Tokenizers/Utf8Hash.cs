using System.Buffers.Binary;
using System.Runtime.CompilerServices;
using System.Runtime.InteropServices;
using System.Security.Cryptography;

namespace Repeng.Runtime.Tokenizers;

/// <summary>
/// Hashes of short keys for the tables of a tokenizer, by multiplication to 128 bits. Seeded anew in each process, so that no
/// file can be made whose keys all fall together; nothing that is computed depends on the seed.
/// </summary>
internal static class Utf8Hash
{
    private static readonly ulong s_seed = BinaryPrimitives.ReadUInt64LittleEndian(RandomNumberGenerator.GetBytes(8));
    private static readonly ulong s_multiplier = BinaryPrimitives.ReadUInt64LittleEndian(RandomNumberGenerator.GetBytes(8)) | 1;

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static uint Of(ulong key) => Mix(key ^ s_seed, s_multiplier);

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static uint Of(ReadOnlySpan<char> key) => Of(MemoryMarshal.AsBytes(key));

    public static uint Of(ReadOnlySpan<byte> key)
    {
        ref byte at = ref MemoryMarshal.GetReference(key);
        int length = key.Length;
        ulong state = s_seed + (ulong)length * 0x9E3779B97F4A7C15;
        for (; length > 16; length -= 8, at = ref Unsafe.Add(ref at, 8))
            state = Math.BigMul(state ^ Unsafe.ReadUnaligned<ulong>(ref at), s_multiplier, out ulong low) ^ low;
        ulong first, second;
        if (length >= 8)
        {
            first = Unsafe.ReadUnaligned<ulong>(ref at);
            second = Unsafe.ReadUnaligned<ulong>(ref Unsafe.Add(ref at, length - 8));
        }
        else if (length >= 4)
        {
            first = Unsafe.ReadUnaligned<uint>(ref at);
            second = Unsafe.ReadUnaligned<uint>(ref Unsafe.Add(ref at, length - 4));
        }
        else if (length > 0)
        {
            first = at;
            second = (uint)Unsafe.Add(ref at, length >> 1) << 8 | Unsafe.Add(ref at, length - 1);
        }
        else
        {
            first = second = 0;
        }
        return Mix(state ^ first ^ (second << 32 | second >> 32), s_multiplier ^ second);
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static uint Mix(ulong a, ulong b)
    {
        ulong high = Math.BigMul(a, b | 1, out ulong low);
        ulong mixed = (high ^ low) * 0xD6E8FEB86659FD93;
        return (uint)(mixed >> 32);
    }
}
