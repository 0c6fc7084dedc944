using System.Runtime.InteropServices;
using Microsoft.Win32.SafeHandles;
using Repeng.Kernels;

namespace Repeng.Steering.Vectors;

/// <summary>
/// Rows of several modules in fp32 in a scratch file without a name, so that memory does not grow with the number of texts.
/// The file is gone when this is disposed, or the program ends, however it ends.
/// </summary>
internal sealed class RowScratch : IDisposable
{
    private readonly SafeFileHandle _file;
    private readonly Dictionary<string, (long Offset, int Width)> _places = [];
    private readonly int _rows;

    /// <summary>Room for so many rows of each module. Throws <see cref="UserErrorException"/> where the folder cannot hold them.</summary>
    public RowScratch(string? folder, int rows, IEnumerable<KeyValuePair<string, int>> widths)
    {
        _rows = rows;
        long size = 0;
        foreach ((string name, int width) in widths)
        {
            _places.Add(name, (size, width));
            size += (long)rows * width * sizeof(float);
        }
        folder ??= Path.GetTempPath();
        string path = Path.Combine(folder, $".repeng-rows-{Guid.NewGuid():N}");
        try
        {
            _file = File.OpenHandle(path, FileMode.CreateNew, FileAccess.ReadWrite, FileShare.None, OperatingSystem.IsWindows() ? FileOptions.DeleteOnClose : FileOptions.None, size);
            // An open file needs no name here, and leaves nothing behind after a kill.
            if (!OperatingSystem.IsWindows())
                File.Delete(path);
        }
        catch (Exception e) when (e is IOException or UnauthorizedAccessException)
        {
            throw new UserErrorException($"{folder}: the {size / 1048576.0:F1} MiB of rows that the method reads more than once cannot be kept there ({e.Message}); write to another folder, or take fewer layers or pairs", e);
        }
    }

    /// <summary>Stores rows of a module from a first one on.</summary>
    public void Write(string name, int first, ReadOnlySpan<float> rows)
    {
        (long offset, int width) = _places[name];
        try
        {
            RandomAccess.Write(_file, MemoryMarshal.AsBytes(rows), offset + (long)first * width * sizeof(float));
        }
        catch (IOException e)
        {
            throw new UserErrorException($"the scratch file for rows of {name} cannot be written: {e.Message}", e);
        }
    }

    /// <summary>The rows of a module, which must all have been written.</summary>
    public RowSource Read(string name)
    {
        (long offset, int width) = _places[name];
        float[] buffer = [];
        return new RowSource(_rows, width, (first, into) =>
        {
            const int Piece = 1 << 20;
            if (buffer.Length < Math.Min(Piece, into.Length))
                buffer = new float[Math.Min(Piece, into.Length)];
            for (int done = 0; done < into.Length;)
            {
                Span<float> part = buffer.AsSpan(0, Math.Min(buffer.Length, into.Length - done));
                Fill(MemoryMarshal.AsBytes(part), offset + ((long)first * width + done) * sizeof(float));
                for (int i = 0; i < part.Length; i++)
                    into[done + i] = part[i];
                done += part.Length;
            }
        });
    }

    /// <inheritdoc/>
    public void Dispose() => _file.Dispose();

    private void Fill(Span<byte> bytes, long offset)
    {
        while (bytes.Length > 0)
        {
            int read = RandomAccess.Read(_file, bytes, offset);
            if (read == 0)
                throw new InvalidOperationException("rows were read before they were written");
            bytes = bytes[read..];
            offset += read;
        }
    }
}
