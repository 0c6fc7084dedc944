using System.Globalization;
using Google.Protobuf;
using Repeng.Kernels;
using Repeng.Runtime.Formats;
using Repeng.Runtime.Logging.TensorBoard;

namespace Repeng.Runtime.Logging;

/// <summary>
/// Writes a TensorBoard event file. Each event is handed to the system in one write, so that a process that is killed
/// leaves a file that is readable up to its last event.
/// </summary>
public sealed class EventWriter : IDisposable
{
    private readonly FileStream _file;

    private EventWriter(string path, FileStream file) => (FilePath, _file) = (path, file);

    /// <summary>The file.</summary>
    public string FilePath { get; }

    /// <summary>A new file in a folder, named as TensorBoard wants it: events.out.tfevents.{Unix seconds}.{host}.{process}.{number}. The first event is written.</summary>
    /// <exception cref="UserErrorException">It cannot be written.</exception>
    public static EventWriter Create(string folder, DateTimeOffset now)
    {
        string stem = Path.Combine(folder, string.Create(CultureInfo.InvariantCulture, $"events.out.tfevents.{now.ToUnixTimeSeconds()}.{Host()}.{Environment.ProcessId}."));
        int number = 0;
        while (File.Exists(stem + number))
            number++;
        EventWriter writer;
        try
        {
            Directory.CreateDirectory(folder);
            // No buffer: what was written is in the system's hands.
            writer = new EventWriter(stem + number, new FileStream(stem + number, FileMode.CreateNew, FileAccess.Write, FileShare.Read, bufferSize: 0));
        }
        catch (Exception e) when (FileErrors.IsFileTrouble(e))
        {
            throw CannotWrite(folder, e);
        }
        writer.Write(new Event { WallTime = Seconds(now), FileVersion = "brain.Event:2", SourceMetadata = new SourceMetadata { Writer = "repeng-native" } });
        return writer;
    }

    /// <summary>Unix time in seconds.</summary>
    public static double Seconds(DateTimeOffset time) => (time - DateTimeOffset.UnixEpoch).TotalSeconds;

    /// <summary>Scalars of a step.</summary>
    public void Scalars(long step, DateTimeOffset time, IEnumerable<KeyValuePair<string, double>> values)
    {
        var summary = new Summary();
        foreach ((string tag, double value) in values)
            summary.Value.Add(new Summary.Types.Value { Tag = tag, SimpleValue = (float)value });
        Write(new Event { WallTime = Seconds(time), Step = step, Summary = summary });
    }

    /// <summary>A text, shown as Markdown.</summary>
    public void Text(string name, string markdown, long step, DateTimeOffset time)
    {
        var tensor = new TensorProto { Dtype = DataType.DtString, TensorShape = new TensorShapeProto { Dim = { new TensorShapeProto.Types.Dim { Size = 1 } } }, StringVal = { ByteString.CopyFromUtf8(markdown) } };
        var metadata = new SummaryMetadata { PluginData = new SummaryMetadata.Types.PluginData { PluginName = "text" } };
        Write(new Event { WallTime = Seconds(time), Step = step, Summary = new Summary { Value = { new Summary.Types.Value { Tag = name + "/text_summary", Tensor = tensor, Metadata = metadata } } } });
    }

    /// <summary>Says that the run (again) begins here: TensorBoard drops what older files of the folder hold from this step on.</summary>
    public void Restart(long step, DateTimeOffset time) =>
        Write(new Event { WallTime = Seconds(time), Step = step, SessionLog = new SessionLog { Status = SessionLog.Types.SessionStatus.Start } });

    /// <summary>Writes an event.</summary>
    public void Write(Event value)
    {
        try
        {
            _file.Write(EventFraming.Frame(value.ToByteArray()));
        }
        catch (Exception e) when (FileErrors.IsFileTrouble(e))
        {
            throw CannotWrite(FilePath, e);
        }
    }

    /// <inheritdoc/>
    public void Dispose() => _file.Dispose();

    private static UserErrorException CannotWrite(string path, Exception e) => new($"{path}: the log of the run cannot be written: {e.Message.ReplaceLineEndings(" ")}", e);

    // A host's name becomes part of a file's name.
    private static string Host() => string.Concat(Environment.MachineName.Where(c => char.IsAsciiLetterOrDigit(c) || c is '-' or '_'));
}
