using Google.Protobuf;
using Repeng.Kernels;
using Repeng.Runtime.Formats;
using Repeng.Runtime.Logging.Wandb;

namespace Repeng.Runtime.Logging;

/// <summary>
/// Writes a .wandb file. Each record is handed to the system in one write as soon as it is known, so that a process
/// that is killed leaves a file that is readable up to its last record.
/// </summary>
public sealed class WandbWriter : IDisposable
{
    private readonly string _path;
    private readonly FileStream _file;

    private WandbWriter(string path, FileStream file, long lastNumber) => (_path, _file, LastNumber) = (path, file, lastNumber);

    /// <summary>Number of the last record; they count from 1.</summary>
    public long LastNumber { get; private set; }

    /// <summary>A new file; missing folders are made.</summary>
    /// <exception cref="UserErrorException">It exists or cannot be written.</exception>
    public static WandbWriter Create(string path) => Guard(path, () =>
    {
        Directory.CreateDirectory(Path.GetDirectoryName(Path.GetFullPath(path))!);
        // No buffer: what was written is in the system's hands.
        var file = new FileStream(path, FileMode.CreateNew, FileAccess.Write, FileShare.Read, bufferSize: 0);
        file.Write(WandbFraming.FileHeader);
        return new WandbWriter(path, file, 0);
    });

    /// <summary>Goes on with a file. A record that its end cuts off goes, and so does everything from the first record on that is not to be kept.</summary>
    /// <param name="path">The file.</param>
    /// <param name="keep">Whether a record stays.</param>
    /// <exception cref="UserErrorException">It cannot be read or written, or is damaged.</exception>
    public static WandbWriter Continue(string path, Func<Record, bool> keep)
    {
        long last = 0, end = WandbFraming.FileHeader.Length;
        using (WandbReader reader = WandbReader.Open(path, allowCutEnd: true))
        {
            while (reader.Next() is { } entry && keep(entry.Record))
            {
                last = entry.Record.Num;
                end = entry.Chunks[^1].Offset + WandbFraming.ChunkHeaderSize + entry.Chunks[^1].Length;
            }
        }
        return Guard(path, () =>
        {
            var file = new FileStream(path, FileMode.Open, FileAccess.Write, FileShare.Read, bufferSize: 0);
            file.SetLength(end);
            file.Position = end;
            return new WandbWriter(path, file, last);
        });
    }

    /// <summary>Writes a record; it gets the next number.</summary>
    public void Write(Record record)
    {
        record.Num = LastNumber + 1;
        Write(record.ToByteArray());
        LastNumber = record.Num;
    }

    /// <summary>Writes a serialised record as it is.</summary>
    public void Write(ReadOnlySpan<byte> record)
    {
        byte[] framed = WandbFraming.Frame(_file.Position, record);
        Guard(_path, () =>
        {
            _file.Write(framed);
            return 0;
        });
    }

    /// <inheritdoc/>
    public void Dispose() => _file.Dispose();

    private static T Guard<T>(string path, Func<T> write)
    {
        try
        {
            return write();
        }
        catch (Exception e) when (FileErrors.IsFileTrouble(e))
        {
            throw new UserErrorException($"{path}: the log of the run cannot be written: {e.Message.ReplaceLineEndings(" ")}", e);
        }
    }
}
