using System.Globalization;
using System.Text.Json;
using System.Text.Json.Nodes;
using Repeng.Kernels;
using Repeng.Runtime.Formats;
using Repeng.Runtime.Logging;
using Repeng.Steering.Adapters;
using Repeng.Steering.Training;

namespace Repeng.Steering.Logging;

/// <summary>Which logs a run writes, beyond the files of its own folder.</summary>
public sealed record RunLogSettings
{
    /// <summary>Project of the research branch.</summary>
    public const string DefaultProject = "repeng-steering";

    /// <summary>Where W&amp;B's client puts its runs.</summary>
    public const string DefaultWandbFolder = "wandb";

    /// <summary>Folder that gets a folder with an offline run of Weights &amp; Biases; null for none.</summary>
    public string? WandbFolder { get; init; }

    /// <summary>Project of that run.</summary>
    public string WandbProject { get; init; } = DefaultProject;

    /// <summary>Folder that gets a folder with TensorBoard's events, named as the run; null for none.</summary>
    public string? TensorBoardFolder { get; init; }
}

/// <summary>
/// Writes a run to Weights &amp; Biases (an offline run) and to TensorBoard: every batch with <see cref="RunMetrics"/>,
/// the settings, final values, how it ended. Which files those are is kept in <see cref="FileName"/> in the run's
/// folder, so that a resumed run goes on with them: what they hold from its checkpoint's step on is dropped.
/// </summary>
public sealed class RunLogs : TrainRunListener, IDisposable
{
    /// <summary>File in a run's folder that names the logs, by paths from there.</summary>
    public const string FileName = "logs.json";

    private const string Events = "*tfevents*";
    private readonly RunLogSettings _settings;
    private readonly TimeProvider _time;
    private readonly (string? Wandb, string? TensorBoard) _earlier;
    private WandbRun? _wandb;
    private EventWriter? _events;
    private IAdapter? _adapter;
    private long _step;
    private bool _ended;

    /// <summary>Logs of a new run; nothing is written before it begins.</summary>
    public RunLogs(RunLogSettings settings, TimeProvider? time = null) : this(settings, default, time)
    {
    }

    private RunLogs(RunLogSettings settings, (string?, string?) earlier, TimeProvider? time) => (_settings, _earlier, _time) = (settings, earlier, time ?? TimeProvider.System);

    /// <summary>Folder of the W&amp;B run, once it is open: what <c>wandb sync</c> takes.</summary>
    public string? WandbRunFolder => _wandb?.Folder;

    /// <summary>Folder of TensorBoard's events, once they are open.</summary>
    public string? TensorBoardRunFolder { get; private set; }

    /// <summary>First step that the W&amp;B run lacks, where it ended before the checkpoint that training goes on from (a machine that lost power); null where all is there.</summary>
    public long? MissingFrom { get; private set; }

    /// <summary>Logs of a run that was stopped; null when it had none.</summary>
    /// <exception cref="UserErrorException">A log is not where it was.</exception>
    public static RunLogs? Resume(string runFolder, TimeProvider? time = null)
    {
        string path = Path.Combine(runFolder, FileName);
        if (!File.Exists(path))
            return null;
        if (JsonFile.Read(path) is not JsonObject json)
            throw new UserErrorException($"{path}: the outermost JSON value is no object; remove the file to go on without logs");
        string? Named(string key)
        {
            if (json[key] is not { } node)
                return null;
            string named = node is JsonValue value && value.TryGetValue(out string? text) ? text : throw new UserErrorException($"{path}: {key} is no path; remove the file to go on without logs");
            string full = Path.GetFullPath(named, Path.GetFullPath(runFolder));
            return File.Exists(full) || Directory.Exists(full) ? full : throw new UserErrorException($"{path}: the log {full} is not there; put it back, or remove {path} to go on without logs");
        }

        return new RunLogs(new RunLogSettings(), (Named("wandb"), Named("tensorboard")), time);
    }

    /// <summary>Throws when <see cref="Open"/> of a new run would: to be called before minutes of work. Nothing stays behind.</summary>
    public void RequireWritable(string runName)
    {
        if (_settings.WandbFolder is { } wandb)
            Probe(wandb, "W&B");
        if (_settings.TensorBoardFolder is not { } board)
            return;
        Probe(board, "TensorBoard");
        string folder = Path.Combine(board, runName);
        if (Directory.Exists(folder) && Directory.EnumerateFiles(folder, Events).Any())
            throw new UserErrorException($"{folder} holds TensorBoard's events of an earlier run of that name; choose another --run_name, or remove it");
    }

    /// <inheritdoc/>
    public override void Open(TrainRunStart start)
    {
        DateTimeOffset now = _time.GetLocalNow();
        (_adapter, _step) = (start.Adapter, start.Step);
        if (start.Resumed)
            GoOn(start, now);
        else
            Begin(start, now);
    }

    /// <inheritdoc/>
    public override void Batch(TrainingProgress progress)
    {
        _step = progress.Step - 1;
        IReadOnlyList<KeyValuePair<string, double>> values = RunMetrics.Of(_adapter!.Model, progress);
        DateTimeOffset now = _time.GetLocalNow();
        _wandb?.History(_step, values, now);
        _events?.Scalars(_step, now, values);
    }

    /// <summary>Values of the whole run, such as eval/truthfulness_corr. In TensorBoard numbers become scalars at the last step, those of an object under its name and a slash.</summary>
    public void Summary(IReadOnlyDictionary<string, JsonNode> values)
    {
        _wandb?.Summary(values.Select(v => KeyValuePair.Create(v.Key, v.Value.ToJsonString())));
        _events?.Scalars(_step, _time.GetLocalNow(), values.SelectMany(v => Numbers(v.Key, v.Value)));
    }

    /// <summary>The run has ended, with the exit code that its process is to have; the files are closed.</summary>
    public void End(int exitCode)
    {
        if (_ended)
            return;
        _ended = true;
        try
        {
            _wandb?.Exit(exitCode, _time.GetLocalNow());
        }
        finally
        {
            Dispose();
        }
    }

    /// <summary>Closes the files. Without <see cref="End"/> they look like those of a run that was killed.</summary>
    public void Dispose()
    {
        _wandb?.Dispose();
        _events?.Dispose();
    }

    private void Begin(TrainRunStart start, DateTimeOffset now)
    {
        RequireWritable(start.Name);
        KeyValuePair<string, string>[] config = Config(start);
        string? board = _settings.TensorBoardFolder is { } parent ? Path.GetFullPath(Path.Combine(parent, start.Name)) : null;
        bool boardWasThere = board is not null && Directory.Exists(board);
        try
        {
            if (_settings.WandbFolder is { } folder)
                _wandb = WandbRun.Create(Path.GetFullPath(folder), _settings.WandbProject, start.Name, config, now);
            if (board is not null)
            {
                _events = EventWriter.Create(TensorBoardRunFolder = board, now);
                _events.Text("config", $"```json\n{start.Settings.ToJson()}```", 0, now);
            }
            var names = new JsonObject();
            if (_wandb is not null)
                names["wandb"] = Relative(start.Folder, _wandb.FilePath);
            if (board is not null)
                names["tensorboard"] = Relative(start.Folder, board);
            AtomicFile.WriteText(Path.Combine(start.Folder, FileName), names.ToJsonString() + "\n");
        }
        catch
        {
            // A run that never began leaves no logs.
            Dispose();
            if (_wandb is not null)
                Directory.Delete(_wandb.Folder, recursive: true);
            if (board is not null && !boardWasThere && Directory.Exists(board))
                Directory.Delete(board, recursive: true);
            else if (_events is not null)
                File.Delete(_events.FilePath);
            _ended = true;
            throw;
        }
    }

    private void GoOn(TrainRunStart start, DateTimeOffset now)
    {
        if (_earlier.Wandb is { } file)
        {
            _wandb = WandbRun.Continue(file, start.Step, now);
            long next = (_wandb.LastStep ?? -1) + 1;
            MissingFrom = next < start.Step ? next : null;
        }
        if (_earlier.TensorBoard is { } folder)
        {
            _events = EventWriter.Create(TensorBoardRunFolder = folder, now);
            _events.Restart(start.Step, now);
        }
    }

    // What the run is made from, and the counts of the adapter and its model.
    private static KeyValuePair<string, string>[] Config(TrainRunStart start)
    {
        IAdapter adapter = start.Adapter;
        long trained = adapter.ParameterCount, total = trained + adapter.Model.Parameters.Values.Sum(p => p.Length);
        JsonObject settings = JsonNode.Parse(start.Settings.ToJson())!.AsObject();
        return
        [
            .. settings.Select(p => KeyValuePair.Create(p.Key, p.Value?.ToJsonString() ?? "null")),
            new("n_adapter_layers", WandbRun.Json(adapter.Modules.Count)),
            new("n_loss_layers", WandbRun.Json(start.LossLayers.Count)),
            new("n_candidate_layers", WandbRun.Json(adapter.Model.Linears.Count)),
            new("trainable_params", WandbRun.Json(trained)),
            new("total_params", WandbRun.Json(total)),
            new("trainable_pct", WandbRun.Json(100.0 * trained / total)),
        ];
    }

    private static IEnumerable<KeyValuePair<string, double>> Numbers(string name, JsonNode value) => value switch
    {
        JsonObject o => o.Where(p => p.Value is not null).SelectMany(p => Numbers($"{name}/{p.Key}", p.Value!)),
        // Whatever type the number was made from.
        JsonValue v when v.GetValueKind() == JsonValueKind.Number => [new(name, double.Parse(v.ToJsonString(), CultureInfo.InvariantCulture))],
        _ => [],
    };

    // By a path from the run's folder, runs and logs can be moved together.
    private static string Relative(string runFolder, string path) => Path.GetRelativePath(Path.GetFullPath(runFolder), path).Replace('\\', '/');

    // Whether a folder could be made and written to: the nearest one that exists is tried.
    private static void Probe(string folder, string what)
    {
        string? there = Path.GetFullPath(folder);
        while (there is not null && !Directory.Exists(there))
        {
            if (File.Exists(there))
                throw new UserErrorException($"{folder}: the {what} log cannot be written there: {there} is a file, a folder is needed; choose another folder");
            there = Path.GetDirectoryName(there);
        }
        try
        {
            using var probe = new FileStream(Path.Combine(there ?? folder, $".repeng-{Guid.NewGuid():N}.tmp"), FileMode.CreateNew, FileAccess.Write, FileShare.None, 1, FileOptions.DeleteOnClose);
        }
        catch (Exception e) when (e is IOException or UnauthorizedAccessException or NotSupportedException or ArgumentException)
        {
            throw new UserErrorException($"{folder}: the {what} log cannot be written there: {e.Message.ReplaceLineEndings(" ")}; choose another folder", e);
        }
    }
}
