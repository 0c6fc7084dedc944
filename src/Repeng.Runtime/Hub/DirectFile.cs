using System.Diagnostics;
using System.Runtime.InteropServices;
using Microsoft.Win32.SafeHandles;

namespace Repeng.Runtime.Hub;

/// <summary>
/// The same file by a second handle that writes past the page cache (O_DIRECT): the disk takes the bytes where they came
/// in, nothing is copied and nothing is left to flush. Worth it where the disk is about as fast as the network; a slower
/// one is left to the page cache, out of which the file can be read again at once.
/// </summary>
internal sealed partial class DirectFile : IDisposable
{
    /// <summary>What addresses, offsets and lengths must be multiples of; the page of the page cache, and more than any disk asks for.</summary>
    public const int Align = 4096;

    private const long Window = 64 << 20, BytesPerSecond = 256 << 20;
    private const int ReadWrite = 2, CloseOnExec = 0x80000;

    private readonly SafeFileHandle _file;
    private long _inWindow, _ticks;

    private DirectFile(SafeFileHandle file) => _file = file;

    /// <summary>Whether it is still worth it.</summary>
    public bool IsOn { get; private set; } = true;

    /// <summary>Opens a file that is there; null where the system or the file system has no such thing.</summary>
    public static DirectFile? TryOpen(string path)
    {
        int direct = RuntimeInformation.ProcessArchitecture switch
        {
            Architecture.X64 => 0x4000,
            Architecture.Arm64 => 0x10000,
            _ => 0,
        };
        if (!OperatingSystem.IsLinux() || direct == 0)
            return null;
        var file = new SafeFileHandle(Open(path, ReadWrite | CloseOnExec | direct), ownsHandle: true);
        return file.IsInvalid ? null : new DirectFile(file);
    }

    /// <summary>Writes whole pages; false where that did not work, so that the other handle has to, which tells why.</summary>
    public bool TryWrite(PartialWrite write, ReadOnlySpan<byte> bytes, long offset)
    {
        long began = Stopwatch.GetTimestamp();
        try
        {
            write(_file, bytes, offset);
        }
        catch (Exception e) when (e is IOException or UnauthorizedAccessException)
        {
            // Some file systems take the flag and not the write.
            return IsOn = false;
        }
        _ticks += Stopwatch.GetTimestamp() - began;
        _inWindow += bytes.Length;
        if (_inWindow < Window)
            return true;
        IsOn = _inWindow >= BytesPerSecond * Stopwatch.GetElapsedTime(0, _ticks).TotalSeconds;
        (_inWindow, _ticks) = (0, 0);
        return true;
    }

    /// <inheritdoc/>
    public void Dispose() => _file.Dispose();

    [LibraryImport("libc", EntryPoint = "open", StringMarshalling = StringMarshalling.Utf8)]
    private static partial int Open(string path, int flags);
}

/// <summary>Memory for a part of a file, where <see cref="DirectFile"/> can write it from.</summary>
internal sealed class FilePart
{
    /// <summary>Bytes of it; a disk takes fewer large parts faster than many small ones (docs/decisions.md).</summary>
    public const int Size = 1 << 20;

    private readonly byte[] _bytes = GC.AllocateUninitializedArray<byte>(Size + DirectFile.Align, pinned: true);
    private readonly int _start;

    public FilePart()
    {
        nint address = Marshal.UnsafeAddrOfPinnedArrayElement(_bytes, 0);
        _start = (int)(-address & (DirectFile.Align - 1));
    }

    /// <summary>All of it.</summary>
    public Memory<byte> Memory => _bytes.AsMemory(_start, Size);
}
