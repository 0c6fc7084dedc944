using System.CommandLine;
using System.Diagnostics;
using Repeng.Cli.Reports;
using Repeng.Cli.Verbs;
using Repeng.Kernels;
using Repeng.Runtime;
using Repeng.Steering.Models;

namespace Repeng.Cli.Results;

/// <summary>Measures what a plan has and a store has not, and says how long that will take.</summary>
internal sealed class ResultsRunner(ResultsPlan plan, ResultsStore store, Session session)
{
    /// <summary>Runs to the end, or throws <see cref="OperationCanceledException"/> on a stop; what is measured is in the store.</summary>
    public void Run(Device device)
    {
        ResultsCell[] left = [.. Missing()];
        int done = 0;
        var costs = new List<(ResultsCell Cell, double Seconds)>();
        foreach (IGrouping<bool, ResultsCell> model in left.GroupBy(c => c.Task.Demo))
        {
            using ModelBundle bundle = ModelBundle.Load(device, model.Key ? ModelBundle.Demo : plan.Model!);
            var subjects = new Dictionary<ResultsTask, ResultsSubject>();
            try
            {
                foreach (ResultsCell cell in model)
                {
                    session.Stop.ThrowIfCancellationRequested();
                    var watch = Stopwatch.StartNew();
                    if (!subjects.TryGetValue(cell.Task, out ResultsSubject? subject))
                        subjects[cell.Task] = subject = new ResultsSubject(bundle, cell.Task, plan.Budget, session.Stop);
                    ResultsRecord record = Measure(bundle, subject, cell) with { Seconds = Math.Round(watch.Elapsed.TotalSeconds, 1) };
                    store.Add(record);
                    done++;
                    costs.Add((cell, watch.Elapsed.TotalSeconds));
                    session.Say($"[{done}/{left.Length}] {cell.Task.Name}, {cell.Method.Name}, seed {cell.Seed}: {Said(record)} ({Format.Number(record.Seconds, 1)} s), {Format.Duration(Left(costs, left.Skip(done)))} left");
                }
            }
            finally
            {
                foreach (ResultsSubject subject in subjects.Values)
                    subject.Dispose();
            }
        }
    }

    /// <summary>Cells without a record.</summary>
    public IEnumerable<ResultsCell> Missing()
    {
        var known = store.Records.Select(r => r.Key).ToHashSet();
        return plan.Cells().Where(c => !known.Contains(c.Key));
    }

    private ResultsRecord Measure(ModelBundle bundle, ResultsSubject subject, ResultsCell cell)
    {
        var record = new ResultsRecord { Task = cell.Task.Name, Method = cell.Method.Name, Seed = cell.Seed, Settings = cell.Settings, Commit = ResultsPlan.Commit, Questions = subject.Questions };
        try
        {
            bool doses = cell.Task.DosesOfAllSeeds || cell.Seed == plan.Seeds[0];
            return subject.Measure(record, cell.Method, texts => Texts(cell.Task, cell.Seed, texts), doses ? cell.Task.Doses : []);
        }
        catch (UserErrorException e)
        {
            // Where a model lies is nobody's business but the run's.
            return record with { Error = e.Message.Replace(bundle.Model.Source, plan.ModelName.Length > 0 && !cell.Task.Demo ? plan.ModelName : ModelBundle.Demo, StringComparison.Ordinal) };
        }
    }

    // The settings that `train` would have of the same words: there is one reading of options, not two.
    private Steering.Training.RunSettings Texts(ResultsTask task, ulong seed, IReadOnlyList<string> more)
    {
        var options = new TrainOptions();
        var train = new Command("train");
        foreach (Option o in options.All)
            train.Options.Add(o);
        var root = new RootCommand { train };
        string[] words = ["train", .. task.Texts, .. more, "--seed", $"{seed}"];
        ParseResult parsed = CliApp.Parse(root, words);
        if (CliApp.Complaint(root, parsed, words) is { } complaint)
            throw new ArgumentException($"{string.Join(' ', words)}: {complaint}");
        string model = task.Demo ? ModelBundle.Demo : plan.Model!;
        return options.Settings(parsed, model, TrainVerb.ReadConfig(model));
    }

    private static string Said(ResultsRecord r) => r.Error ?? (r.Effect is { } e ? $"effect {Format.Signed(e)} ± {Format.Number(r.EffectError ?? double.NaN, 2)}"
        : r.Minus is null ? $"log-odds {Format.Signed(r.Points[0].LogOdds ?? double.NaN)}" : $"c − {r.Minus.Outcome}, c + {r.Plus!.Outcome}");

    // What is left costs what the same method has cost on the same model, else what its kind has, else the mean.
    private static double Left(List<(ResultsCell Cell, double Seconds)> costs, IEnumerable<ResultsCell> left) => left.Sum(c =>
        costs.Where(k => k.Cell.Task.Demo == c.Task.Demo && k.Cell.Method == c.Method).Select(k => k.Seconds).DefaultIfEmpty(
        costs.Where(k => k.Cell.Task.Demo == c.Task.Demo && k.Cell.Method.Kind == c.Method.Kind).Select(k => k.Seconds).DefaultIfEmpty(
        costs.Average(k => k.Seconds)).Average()).Average());
}
