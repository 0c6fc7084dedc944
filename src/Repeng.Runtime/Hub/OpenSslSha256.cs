using System.Runtime.InteropServices;
using System.Security.Cryptography;

namespace Repeng.Runtime.Hub;

/// <summary>
/// SHA-256 whose state can be taken out and put back, which .NET's cannot: by OpenSSL's functions of old, which keep it in
/// a plain record. Behind them is the code that .NET's hash has on Linux, too.
/// </summary>
internal sealed unsafe class OpenSslSha256
{
    /// <summary>Bytes of a block; between blocks the state is <see cref="Words"/> words and the number of bytes before.</summary>
    public const int Block = 64, Words = 8;

    // The functions of OpenSSL, null where they are not there or not as they are known.
    private static readonly delegate* unmanaged<Record*, int> s_init;
    private static readonly delegate* unmanaged<Record*, byte*, nuint, int> s_update;
    private static readonly delegate* unmanaged<byte*, Record*, int> s_final;

    private Record _record;

    static OpenSslSha256()
    {
        foreach (string name in new[] { "libcrypto.so.3", "libcrypto.so.1.1" })
            if (OperatingSystem.IsLinux() && NativeLibrary.TryLoad(name, out nint library)
                && NativeLibrary.TryGetExport(library, "SHA256_Init", out nint init) && NativeLibrary.TryGetExport(library, "SHA256_Update", out nint update) && NativeLibrary.TryGetExport(library, "SHA256_Final", out nint final))
            {
                s_init = (delegate* unmanaged<Record*, int>)init;
                s_update = (delegate* unmanaged<Record*, byte*, nuint, int>)update;
                s_final = (delegate* unmanaged<byte*, Record*, int>)final;
                if (IsKnown())
                    return;
                s_init = null;
            }
    }

    private OpenSslSha256()
    {
        fixed (Record* r = &_record)
            s_init(r);
    }

    /// <summary>A hash of nothing yet; null where the system has no such functions.</summary>
    public static OpenSslSha256? TryCreate() => s_init is null ? null : new OpenSslSha256();

    /// <summary>Takes the next bytes.</summary>
    public void Append(ReadOnlySpan<byte> bytes)
    {
        fixed (Record* r = &_record)
        fixed (byte* b = bytes)
            s_update(r, b, (nuint)bytes.Length);
    }

    /// <summary>The hash of all bytes; nothing can be added afterwards.</summary>
    public byte[] Finish()
    {
        byte[] hash = new byte[SHA256.HashSizeInBytes];
        fixed (Record* r = &_record)
        fixed (byte* h = hash)
            s_final(h, r);
        return hash;
    }

    /// <summary>The state behind whole blocks, as eight words.</summary>
    public uint[] Save()
    {
        if (_record.Pending != 0)
            throw new InvalidOperationException("the last block is not whole");
        return [.. _record.State];
    }

    /// <summary>Goes on as if <paramref name="length"/> bytes, whole blocks, had been taken that left this state.</summary>
    public void Restore(ReadOnlySpan<uint> state, long length)
    {
        if (state.Length != Words || length < 0 || length % Block != 0)
            throw new ArgumentException("no state of SHA-256 behind whole blocks", nameof(state));
        state.CopyTo(_record.State);
        (_record.Bits, _record.Pending) = ((ulong)length * 8, 0);
    }

    // The record has been the same since 2004, but nobody promises it. What is put back must be what was taken out.
    private static bool IsKnown()
    {
        byte[] text = new byte[3 * Block + 5];
        new Random(1).NextBytes(text);
        var first = new OpenSslSha256();
        first.Append(text.AsSpan(0, 2 * Block));
        if (first._record.Pending != 0 || first._record.Bits != 2 * Block * 8)
            return false;
        var second = new OpenSslSha256();
        second.Append(text.AsSpan(0, 7));
        second.Restore(first.Save(), 2 * Block);
        second.Append(text.AsSpan(2 * Block));
        return second.Finish().AsSpan().SequenceEqual(SHA256.HashData(text));
    }

    // SHA256_CTX; some room behind it in case that it ever grows.
    [StructLayout(LayoutKind.Sequential)]
    private struct Record
    {
        public Eight State;
        public ulong Bits;
        public Sixteen Data;
        public uint Pending, HashLength;
        public Sixteen Behind;
    }

    [System.Runtime.CompilerServices.InlineArray(Words)]
    private struct Eight
    {
        private uint _first;
    }

    [System.Runtime.CompilerServices.InlineArray(16)]
    private struct Sixteen
    {
        private uint _first;
    }
}
