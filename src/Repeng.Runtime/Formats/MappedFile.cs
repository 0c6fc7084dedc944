using System.IO.MemoryMappedFiles;
using Repeng.Kernels;

namespace Repeng.Runtime.Formats;

/// <summary>
/// A whole file mapped for reading. Every access goes through bounds that come from the length at opening;
/// a file that another program cuts short while it is mapped ends the process (SIGBUS), which no reader can prevent.
/// </summary>
internal sealed unsafe class MappedFile : IDisposable
{
    private readonly MemoryMappedFile? _file;
    private readonly MemoryMappedViewAccessor? _view;
    private readonly byte* _address;
    private bool _disposed;

    // The source itself is one user, every hold another.
    private int _users = 1;

    private MappedFile(string path, FileStream stream)
    {
        Path = path;
        Length = stream.Length;
        if (Length == 0)
        {
            // An empty file cannot be mapped; its reader says what is missing.
            stream.Dispose();
            return;
        }
        _file = MemoryMappedFile.CreateFromFile(stream, null, 0, MemoryMappedFileAccess.Read, HandleInheritability.None, leaveOpen: false);
        try
        {
            _view = _file.CreateViewAccessor(0, 0, MemoryMappedFileAccess.Read);
            byte* address = null;
            _view.SafeMemoryMappedViewHandle.AcquirePointer(ref address);
            _address = address + _view.PointerOffset;
        }
        catch
        {
            _view?.Dispose();
            _file.Dispose();
            throw;
        }
    }

    /// <summary>Path as the caller gave it.</summary>
    public string Path { get; }

    /// <summary>Length in bytes when the file was opened.</summary>
    public long Length { get; }

    /// <summary>Maps a file; <see cref="UserErrorException"/> where it is missing, a folder or unreadable.</summary>
    public static MappedFile Open(string path)
    {
        if (!BitConverter.IsLittleEndian)
            throw new PlatformNotSupportedException("safetensors and GGUF files are little-endian; so must the machine be");
        FileStream? stream = null;
        try
        {
            stream = new FileStream(path, FileMode.Open, FileAccess.Read, FileShare.Read, bufferSize: 0);
            return new MappedFile(path, stream);
        }
        catch (Exception e) when (FileErrors.IsFileTrouble(e))
        {
            stream?.Dispose();
            throw FileErrors.CannotRead(path, e);
        }
    }

    /// <summary>Address of bytes [offset, offset + length); throws where they lie outside the file.</summary>
    public byte* At(long offset, long length)
    {
        ObjectDisposedException.ThrowIf(_disposed, this);
        if (offset < 0 || length < 0 || offset > Length - length)
            throw FileErrors.Bad(Path, $"bytes [{offset}, {offset + length}) lie outside the file of {Length} bytes");
        return _address + offset;
    }

    /// <summary>Bytes [offset, offset + length) as a span.</summary>
    public ReadOnlySpan<byte> Span(long offset, int length) => new(At(offset, length), length);

    /// <summary>One more user of the mapping, beyond the source's own life; disposing the result ends it.</summary>
    public IDisposable Hold()
    {
        ObjectDisposedException.ThrowIf(_disposed, this);
        Interlocked.Increment(ref _users);
        return new Held(this);
    }

    /// <inheritdoc/>
    public void Dispose()
    {
        if (_disposed)
            return;
        _disposed = true;
        Release();
    }

    private void Release()
    {
        if (Interlocked.Decrement(ref _users) > 0)
            return;
        if (_view is not null)
        {
            _view.SafeMemoryMappedViewHandle.ReleasePointer();
            _view.Dispose();
        }
        _file?.Dispose();
    }

    private sealed class Held(MappedFile file) : IDisposable
    {
        private MappedFile? _file = file;

        public void Dispose() => Interlocked.Exchange(ref _file, null)?.Release();
    }
}
