using System.Diagnostics;
using Repeng.Steering.Adapters;
using Repeng.Steering.Losses;
using Repeng.Steering.Training;
using Spectre.Console;
using Spectre.Console.Rendering;

namespace Repeng.Cli.Reports;

/// <summary>Shows a run: a live bar where a terminal watches, else plain lines; and remembers the last epoch's losses.</summary>
public sealed class TrainProgress : TrainRunListener
{
    private const double SecondsBetweenLines = 5;

    // Columns of a terminal that hold names, bar and all metrics; below that all is shortened to fit into 80.
    private const int WideEnough = 130;
    private readonly Session _session;
    private readonly int _lines;
    private readonly Stopwatch _sinceLine = Stopwatch.StartNew();
    private readonly Stopwatch _phase = Stopwatch.StartNew();
    private readonly List<TrainingProgress> _lastEpoch = [];
    private ProgressContext? _live;
    private ProgressTask? _task;
    private string _what = "";
    private string _metrics = "";
    private int _nextLine;
    private bool _narrow;

    /// <summary>lines: how many plain lines over the run, at least.</summary>
    public TrainProgress(Session session, int lines) => (_session, _lines) = (session, Math.Max(1, lines));

    /// <summary>Batches of the run.</summary>
    public int TotalBatches { get; private set; }

    /// <summary>Training pairs.</summary>
    public int TrainPairs { get; private set; }

    /// <summary>Validation pairs.</summary>
    public int ValidationPairs { get; private set; }

    /// <summary>Last validation loss, if there was one.</summary>
    public double? ValidationLoss { get; private set; }

    /// <summary>Batches of the last epoch that was begun.</summary>
    public IReadOnlyList<TrainingProgress> LastEpoch => _lastEpoch;

    /// <summary>Runs the work with the display around it.</summary>
    public T Show<T>(Func<T> work)
    {
        if (!_session.StatusIsTerminal)
            return work();
        _narrow = _session.Status.Profile.Width < WideEnough;
        return _session.Status.Progress().HideCompleted(_narrow).Columns(new TaskDescriptionColumn(), new ProgressBarColumn { Width = _narrow ? 14 : 30 }, new PercentageColumn(), new MetricsColumn(() => _metrics)).Start(context =>
        {
            _live = context;
            try
            {
                return work();
            }
            finally
            {
                _live = null;
            }
        });
    }

    /// <inheritdoc/>
    public override void Preparing(string what, int done, int of)
    {
        // Nothing is on disk yet that would have to be kept.
        _session.Stop.ThrowIfCancellationRequested();
        if (what != _what)
        {
            _phase.Restart();
            NewTask(what, of);
        }
        if (_task is not null)
            _task.Value = done;
        if (_live is null && done >= of)
            _session.Say($"{what}: {of} done after {Format.Duration(_phase.Elapsed.TotalSeconds)}");
    }

    /// <inheritdoc/>
    public override void Begin(IAdapter adapter, IReadOnlyList<string> lossLayers, int trainPairs, int validationPairs, int batches)
    {
        (TrainPairs, ValidationPairs, TotalBatches) = (trainPairs, validationPairs, batches);
        NewTask("training", batches);
        if (_live is null)
            _session.Say($"training: {batches} batches, {trainPairs} pairs ({validationPairs} more for validation), {adapter.Modules.Count} layers, {adapter.ParameterCount} parameters");
    }

    /// <inheritdoc/>
    public override void Batch(TrainingProgress p)
    {
        if (_lastEpoch.Count > 0 && _lastEpoch[0].Epoch != p.Epoch)
            _lastEpoch.Clear();
        _lastEpoch.Add(p);
        ValidationLoss = p.ValidationLoss ?? ValidationLoss;
        string text = $"loss {Format.Number(p.Loss)}  separation {Format.Signed(p.Separation)}  degradation {Format.Signed(p.Degradation)} nats  {Format.Number(p.RowsPerSecond, 1)} rows/s  {Format.Duration(p.SecondsLeft)} left";
        if (_live is not null)
        {
            _metrics = _narrow ? $"loss {Format.Number(p.Loss, 2)} sep {Format.Signed(p.Separation)} deg {Format.Signed(p.Degradation)} nats {Format.Number(p.RowsPerSecond, 0)}/s {Format.Duration(p.SecondsLeft)}" : text;
            if (_task is not null)
                _task.Value = p.Step;
            return;
        }
        int line = (int)((long)p.Step * _lines / p.TotalSteps);
        if (line < _nextLine && _sinceLine.Elapsed.TotalSeconds < SecondsBetweenLines && p.Step < p.TotalSteps)
            return;
        _nextLine = line + 1;
        _sinceLine.Restart();
        string validation = ValidationLoss is { } v ? $"  val_loss {Format.Number(v)}" : "";
        _session.Say($"{100.0 * p.Step / p.TotalSteps,3:F0} %  batch {p.Step}/{p.TotalSteps}  {text}{validation}");
    }

    private void NewTask(string what, int of)
    {
        _what = what;
        _metrics = "";
        if (_live is null)
            return;
        if (_task is not null)
            _task.Value = _task.MaxValue;
        _task = _live.AddTask(Markup.Escape(what), maxValue: Math.Max(1, of));
    }

    private sealed class MetricsColumn(Func<string> metrics) : ProgressColumn
    {
        protected override bool NoWrap => true;

        public override IRenderable Render(RenderOptions options, ProgressTask task, TimeSpan deltaTime) => new Text(task.IsFinished ? "" : metrics());
    }
}
