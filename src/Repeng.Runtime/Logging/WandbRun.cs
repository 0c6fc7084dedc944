using System.Globalization;
using System.Security.Cryptography;
using System.Text.Encodings.Web;
using System.Text.Json;
using Google.Protobuf.WellKnownTypes;
using Repeng.Kernels;
using Repeng.Runtime.Formats;
using Repeng.Runtime.Logging.Wandb;

namespace Repeng.Runtime.Logging;

/// <summary>
/// An offline run of Weights &amp; Biases as its own client lays it out: offline-run-{time}-{id}/run-{id}.wandb with
/// files/ and logs/ beside it. <c>wandb sync FOLDER</c> uploads it.
/// </summary>
/// <remarks>
/// W&amp;B knows no way to join two offline folders of one run: the one that is uploaded second replaces the first. A run that
/// is resumed therefore goes on in its one file, whose end is cut back to the step where training goes on.
/// </remarks>
public sealed class WandbRun : IDisposable
{
    // What wandb itself writes for the layout of records used here.
    private const string MinimalConsumer = "0.70.0";
    private const int IdLength = 8;
    private const string IdCharacters = "abcdefghijklmnopqrstuvwxyz0123456789";
    private readonly WandbWriter _writer;
    private readonly DateTimeOffset _opened;
    private readonly double _before;

    private WandbRun(string file, string id, WandbWriter writer, DateTimeOffset opened, double before, long? lastStep) =>
        (FilePath, Id, _writer, _opened, _before, LastStep) = (file, id, writer, opened, before, lastStep);

    /// <summary>The .wandb file.</summary>
    public string FilePath { get; }

    /// <summary>The folder that <c>wandb sync</c> takes.</summary>
    public string Folder => Path.GetDirectoryName(Path.GetFullPath(FilePath))!;

    /// <summary>Id of the run.</summary>
    public string Id { get; }

    /// <summary>Step of the last history row; null before the first.</summary>
    public long? LastStep { get; private set; }

    /// <summary>A new run in a folder of its own. When that fails, nothing of it stays.</summary>
    /// <param name="parent">Folder of the runs, such as ./wandb.</param>
    /// <param name="project">Project that it is uploaded to.</param>
    /// <param name="name">Name shown for it.</param>
    /// <param name="config">Settings: name and JSON.</param>
    /// <param name="now">When it begins.</param>
    /// <exception cref="UserErrorException">It cannot be written.</exception>
    public static WandbRun Create(string parent, string project, string name, IEnumerable<KeyValuePair<string, string>> config, DateTimeOffset now)
    {
        string id = RandomNumberGenerator.GetString(IdCharacters, IdLength);
        string folder = Path.Combine(parent, string.Create(CultureInfo.InvariantCulture, $"offline-run-{now.LocalDateTime:yyyyMMdd_HHmmss}-{id}"));
        string file = Path.Combine(folder, $"run-{id}.wandb");
        WandbWriter? writer = null;
        try
        {
            Directory.CreateDirectory(Path.Combine(folder, "files"));
            Directory.CreateDirectory(Path.Combine(folder, "logs"));
            writer = WandbWriter.Create(file);
            writer.Write(new Record { Header = new HeaderRecord { VersionInfo = new VersionInfo { Producer = "repeng-native", MinConsumer = MinimalConsumer } } });
            writer.Write(new Record
            {
                Run = new RunRecord
                {
                    RunId = id,
                    Project = project,
                    DisplayName = name,
                    Host = Environment.MachineName,
                    StartTime = Timestamp.FromDateTimeOffset(now),
                    Config = ConfigOf(config),
                },
            });
            return new WandbRun(file, id, writer, now, 0, null);
        }
        catch (Exception e)
        {
            writer?.Dispose();
            Remove(folder);
            if (FileErrors.IsFileTrouble(e))
                throw new UserErrorException($"{parent}: the folder of the W&B log cannot be written: {e.Message.ReplaceLineEndings(" ")}", e);
            throw;
        }
    }

    /// <summary>Goes on with a run: what it holds from a step on goes, the record of its exit too.</summary>
    /// <param name="file">The .wandb file.</param>
    /// <param name="step">The next step.</param>
    /// <param name="now">When it goes on.</param>
    /// <exception cref="UserErrorException">It cannot be read or written, or is no run.</exception>
    public static WandbRun Continue(string file, long step, DateTimeOffset now)
    {
        string? id = null;
        long? last = null;
        double before = 0;
        bool Keep(Record record)
        {
            switch (record.RecordTypeCase)
            {
                case Record.RecordTypeOneofCase.Run:
                    id = record.Run.RunId;
                    return true;
                case Record.RecordTypeOneofCase.History:
                    long at = record.History.Step?.Num ?? 0;
                    if (at >= step)
                        return false;
                    last = at;
                    before = Number(record.History.Item, "_runtime") ?? before;
                    return true;
                case Record.RecordTypeOneofCase.Summary:
                    // The one with wandb's own runtime stands before the exit.
                    return (Number(record.Summary.Update, "_step") is not { } of || of < step) && record.Summary.Update.All(i => i.NestedKey.FirstOrDefault() != "_wandb");
                default:
                    return record.RecordTypeCase != Record.RecordTypeOneofCase.Exit;
            }
        }

        WandbWriter writer = WandbWriter.Continue(file, Keep);
        if (id is null)
        {
            writer.Dispose();
            throw FileErrors.Bad(file, "holds no record of a run; the log cannot go on");
        }
        // The mark says that this file was uploaded as it is, which no longer holds.
        Remove(file + ".synced");
        return new WandbRun(file, id, writer, now, before, last);
    }

    /// <summary>A number as wandb writes it: JSON, but for NaN, Infinity and -Infinity, which stand bare.</summary>
    public static string Json(double value) =>
        double.IsNaN(value) ? "NaN" : double.IsInfinity(value) ? value > 0 ? "Infinity" : "-Infinity" : value.ToString("R", CultureInfo.InvariantCulture);

    /// <summary>A text as JSON.</summary>
    public static string Json(string value) => $"\"{JavaScriptEncoder.Default.Encode(value)}\"";

    /// <summary>Further settings: name and JSON.</summary>
    public void Config(IEnumerable<KeyValuePair<string, string>> values) => _writer.Write(new Record { Config = ConfigOf(values) });

    /// <summary>Values of a step: they become the summary's too, as wandb's own client does it, so that a run that is killed shows its last ones.</summary>
    public void History(long step, IEnumerable<KeyValuePair<string, double>> values, DateTimeOffset now)
    {
        var history = new HistoryRecord { Step = new HistoryStep { Num = step } };
        foreach ((string name, double value) in values)
            history.Item.Add(Nested(name, Json(value)));
        history.Item.Add(Nested("_step", step.ToString(CultureInfo.InvariantCulture)));
        history.Item.Add(Nested("_timestamp", Json(EventWriter.Seconds(now))));
        history.Item.Add(Nested("_runtime", Json(Runtime(now))));
        var summary = new SummaryRecord();
        summary.Update.AddRange(history.Item.Select(i => i.Clone()));
        _writer.Write(new Record { Summary = summary });
        _writer.Write(new Record { History = history });
        LastStep = step;
    }

    /// <summary>Values of the whole run: name and JSON.</summary>
    public void Summary(IEnumerable<KeyValuePair<string, string>> values)
    {
        var summary = new SummaryRecord();
        foreach ((string name, string json) in values)
            summary.Update.Add(new Item { Key = name, ValueJson = json });
        _writer.Write(new Record { Summary = summary });
    }

    /// <summary>The run has ended.</summary>
    /// <param name="code">Exit code of the process; 0 shows as finished, any other as failed.</param>
    /// <param name="now">When.</param>
    public void Exit(int code, DateTimeOffset now)
    {
        int seconds = (int)Runtime(now);
        _writer.Write(new Record { Summary = new SummaryRecord { Update = { new Item { NestedKey = { "_wandb", "runtime" }, ValueJson = seconds.ToString(CultureInfo.InvariantCulture) }, new Item { Key = "_runtime", ValueJson = Json(Runtime(now)) } } } });
        _writer.Write(new Record { Exit = new RunExitRecord { ExitCode = code, Runtime = seconds } });
    }

    /// <inheritdoc/>
    public void Dispose() => _writer.Dispose();

    // Time that the run was up, over all its parts.
    private double Runtime(DateTimeOffset now) => _before + (now - _opened).TotalSeconds;

    private static Item Nested(string name, string json) => new() { NestedKey = { name }, ValueJson = json };

    private static ConfigRecord ConfigOf(IEnumerable<KeyValuePair<string, string>> values)
    {
        var config = new ConfigRecord();
        foreach ((string name, string json) in values)
            config.Update.Add(new Item { Key = name, ValueJson = json });
        return config;
    }

    private static double? Number(IEnumerable<Item> items, string name)
    {
        Item? item = items.FirstOrDefault(i => i.NestedKey is [var only] && only == name);
        return item is not null && double.TryParse(item.ValueJson, NumberStyles.Float, CultureInfo.InvariantCulture, out double value) ? value : null;
    }

    private static void Remove(string path)
    {
        try
        {
            if (Directory.Exists(path))
                Directory.Delete(path, recursive: true);
            else
                File.Delete(path);
        }
        catch (Exception e) when (FileErrors.IsFileTrouble(e))
        {
            throw new UserErrorException($"{path}: cannot be removed: {e.Message.ReplaceLineEndings(" ")}", e);
        }
    }
}
