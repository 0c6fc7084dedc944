using System.Diagnostics;
using Repeng.Runtime.Hub;
using Spectre.Console;

namespace Repeng.Cli.Reports;

/// <summary>Shows what is fetched from the hub: bars where a terminal watches, else a line for each file and every few seconds of a long one.</summary>
public sealed class HubProgress(Session session) : HubListener
{
    private const double SecondsBetweenLines = 5;
    private readonly Lock _lock = new();
    private readonly Stopwatch _sinceLine = Stopwatch.StartNew();
    private readonly Stopwatch _sinceBegin = new();
    private ProgressContext? _live;
    private ProgressTask? _task;
    private string _name = "";
    private long _size;
    private long _have;
    private long _before;

    /// <summary>Bytes that came over the network.</summary>
    public long Fetched { get; private set; }

    /// <summary>Files that were fetched.</summary>
    public int Files { get; private set; }

    /// <summary>Runs the work with the display around it.</summary>
    public T Show<T>(Func<T> work)
    {
        if (!session.StatusIsTerminal)
            return work();
        return session.Status.Progress().AutoRefresh(true).Columns(new TaskDescriptionColumn { Alignment = Justify.Left }, new ProgressBarColumn { Width = 30 }, new DownloadedColumn(), new TransferSpeedColumn(), new RemainingTimeColumn()).Start(context =>
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
    public override void Note(string text) => session.Say(text);

    /// <inheritdoc/>
    public override void Begin(string name, long size, long have)
    {
        lock (_lock)
        {
            (_name, _size, _have, _before) = (name, size, have, have);
            _sinceBegin.Restart();
            _sinceLine.Restart();
            if (_live is { } live)
            {
                _task = live.AddTask(Markup.Escape(name), maxValue: Math.Max(1, size));
                _task.IsIndeterminate = size < 0;
                _task.Value = have;
            }
            else if (have > 0)
                session.Say($"{name}: goes on behind the {Format.Bytes(have)} of {Format.Bytes(size)} that are there");
        }
    }

    /// <inheritdoc/>
    public override void Received(string name, long bytes)
    {
        lock (_lock)
        {
            _have += bytes;
            Fetched += Math.Max(0, bytes);
            if (_task is { } task)
                task.Value = _have;
            else if (_sinceLine.Elapsed.TotalSeconds >= SecondsBetweenLines)
            {
                _sinceLine.Restart();
                double rate = (_have - _before) / _sinceBegin.Elapsed.TotalSeconds;
                session.Say(_size > 0
                    ? $"{_name}: {100.0 * _have / _size,3:F0} %  {Format.Bytes(_have)} of {Format.Bytes(_size)}  {Format.Bytes(rate)}/s  {Format.Duration((_size - _have) / rate)} left"
                    : $"{_name}: {Format.Bytes(_have)}  {Format.Bytes(rate)}/s");
            }
        }
    }

    /// <inheritdoc/>
    public override void Done(string name)
    {
        lock (_lock)
        {
            Files++;
            if (_task is { } task)
                task.Value = task.MaxValue;
            else
                session.Say($"{name}: {Format.Bytes(_have)}, {Format.Duration(_sinceBegin.Elapsed.TotalSeconds)}");
            _task = null;
        }
    }
}
