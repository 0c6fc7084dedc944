using System.CommandLine;
using System.Globalization;
using Repeng.Cli.Results;
using Repeng.Kernels;
using Repeng.Runtime;
using Repeng.Steering.Models;

namespace Repeng.Cli.Verbs;

/// <summary>results: measures every method on every task with several seeds and writes the page about it.</summary>
public sealed class ResultsVerb
{
    private const int MostSeeds = 100;
    private readonly Option<string?> _output = Opt.Text("--output", "FOLDER", "where records.jsonl, tables and pictures go; the page is FOLDER.md (default docs/results)");
    private readonly Option<string[]?> _tasks = Opt.Texts("--tasks", "NAME", $"what is steered (default: all of {string.Join(", ", ResultsTask.All.Select(t => t.Name))}; without --model the demo alone)");
    private readonly Option<string[]?> _methods = Opt.Texts("--methods", "NAME", "methods by their names on the page (default: all)");
    private readonly Option<string[]?> _seeds = Opt.Texts("--seeds", "N|A..B", "seeds, one by one or first..last (default 42..46)");
    private readonly Option<string?> _model = Opt.Text("--model", "MODEL", "folder, .gguf file or repository of the hub (org/name) of the tasks mood and honesty; the page was made with SmolLM2-135M-Instruct", "--model_name");
    private readonly Option<double?> _budget = Opt.Number("--kl_budget", "nats of p95 KL that every method is measured at (default 1)");
    private readonly Option<string?> _stale = Opt.Choice("--stale", "records of other settings, or of another commit of this program: refuse to go on (default), redo them, or keep those that differ in the commit alone; the page names every commit", "refuse", "redo", "keep");
    private readonly Option<bool?> _render = Opt.Flag("--render", "write the page from the records that are there, and measure nothing");
    private readonly DeviceOption _device = new();
    private readonly Session _session;

    private ResultsVerb(Session session) => _session = session;

    /// <summary>The verb.</summary>
    public static Command Create(Session session)
    {
        var verb = new ResultsVerb(session);
        var command = new Command("results", "Measure every method on every task with several seeds, at equal damage, and write the page of results; a stopped run goes on where it was");
        foreach (Option o in new Option[] { verb._output, verb._tasks, verb._methods, verb._seeds, verb._model, verb._budget, verb._stale, verb._render }.Concat(verb._device.All))
            command.Options.Add(o);
        command.SetAction(verb.Run);
        return command;
    }

    private int Run(ParseResult p)
    {
        ResultsPlan plan = Plan(p);
        string folder = Path.TrimEndingDirectorySeparator(p.GetValue(_output) ?? Path.Combine("docs", "results"));
        bool render = p.GetValue(_render) == true;
        string stale = p.GetValue(_stale) ?? "refuse";
        if (render && p.GetValue(_stale) is not null)
            throw new UserErrorException("--stale beside --render: nothing is measured, and a page of mixed records names every commit; leave one out");
        using ResultsStore store = ResultsStore.Open(folder, write: !render);
        Settle(plan, store, stale, render);
        if (!render)
        {
            var runner = new ResultsRunner(plan, store, _session);
            int missing = runner.Missing().Count();
            _session.Say($"{missing} of {plan.Cells().Count} records are to be measured; commit {ResultsPlan.Commit}");
            if (missing > 0)
            {
                using Device device = _device.Open(p, _session);
                try
                {
                    runner.Run(device);
                }
                catch (OperationCanceledException) when (_session.Stop.IsCancellationRequested)
                {
                    _session.Say($"stopped; {store.Records.Count} records are in {Path.Combine(folder, ResultsStore.FileName)}. The same command goes on, with --render it writes the page of what is there");
                    return _session.StopCode;
                }
            }
        }
        var cells = plan.Cells().Select(c => c.Key).ToHashSet();
        ResultsRecord[] records = [.. store.Records.Where(r => cells.Contains(r.Key))];
        if (records.Length == 0)
            throw new UserErrorException($"{Path.Combine(folder, ResultsStore.FileName)} has no record of these tasks, methods and seeds, so that there is nothing to write about; leave --render out to measure");
        foreach (string file in new ResultsPage(plan, records, Command(p, plan)).Write(folder))
            _session.Print($"Written: {file}");
        return ExitCodes.Ok;
    }

    private ResultsPlan Plan(ParseResult p)
    {
        string? model = p.GetValue(_model);
        IReadOnlyList<ResultsTask> tasks = ResultsTask.Named(p.Given(_tasks));
        if (model is null)
            tasks = p.Given(_tasks) is null ? [.. tasks.Where(t => t.Demo)] : tasks.FirstOrDefault(t => !t.Demo) is { } needs
                ? throw new UserErrorException($"task {needs.Name} is on a real model; give --model FOLDER or FILE.gguf, such as SmolLM2-135M-Instruct")
                : tasks;
        else if (model == ModelBundle.Demo)
            throw new UserErrorException("--model demo: the demo model is the task demo's anyway, and knows nothing of the other ones; give another model or leave --model out");
        else if (tasks.All(t => t.Demo))
            throw new UserErrorException($"--model {model} without a task that runs on it; leave --model out or add --tasks mood");
        else
            // A model that is not there is found before an hour of the demo.
            TrainVerb.ReadConfig(model);
        double budget = p.GetValue(_budget) ?? 1;
        if (budget <= 0)
            throw new UserErrorException($"--kl_budget {budget} must be above 0 nats");
        return new ResultsPlan(tasks, ResultsMethod.Named(p.Given(_methods)), Seeds(p.Given(_seeds) ?? ["42..46"]), model, budget);
    }

    private static ulong[] Seeds(string[] words)
    {
        var seeds = new List<ulong>();
        foreach (string word in words)
        {
            string[] ends = word.Split("..");
            if (ends.Length > 2 || !Read(ends[0], out ulong first) || !Read(ends[^1], out ulong last) || last < first || last - first >= MostSeeds)
                throw new UserErrorException($"--seeds '{word}': write a whole number or first..last, at most {MostSeeds} of them");
            for (ulong s = first; s <= last; s++)
                seeds.Add(s);
        }
        return seeds.Count > 0 ? [.. seeds.Distinct()] : throw new UserErrorException("--seeds: no seed is given; for example 42..46");

        static bool Read(string text, out ulong seed) => ulong.TryParse(text, NumberStyles.None, CultureInfo.InvariantCulture, out seed);
    }

    // Records that this plan would not have made: nothing of them gets onto a page unsaid.
    private void Settle(ResultsPlan plan, ResultsStore store, string stale, bool render)
    {
        var settings = plan.Cells().ToDictionary(c => c.Key, c => c.Settings);
        ResultsRecord[] mine = [.. store.Records.Where(r => settings.ContainsKey(r.Key))];
        ResultsRecord[] other = [.. mine.Where(r => r.Settings != settings[r.Key])], older = [.. mine.Except(other).Where(r => r.Commit != ResultsPlan.Commit)];
        if (other.Length > 0 && (render || stale != "redo"))
            throw new UserErrorException($"{other.Length} of {mine.Length} records are of other settings or another model than this command's (the first: {other[0].Task}, {other[0].Method}, seed {other[0].Seed}); give --stale redo to measure them again, or another --output");
        if (!render && older.Length > 0 && stale == "refuse" && plan.Cells().Count > mine.Length)
            throw new UserErrorException($"{older.Length} of {mine.Length} records are of another commit ({string.Join(", ", older.Select(r => r.Commit).Distinct())}; this is {ResultsPlan.Commit}); give --stale redo to measure them again, or --stale keep to add to them: the page then names both");
        if (!render)
            store.Remove(stale == "redo" ? other.Concat(older) : []);
    }

    // What the page is made by, without what only this machine knows.
    private string Command(ParseResult p, ResultsPlan plan)
    {
        var words = new List<string> { CliApp.Name, "results" };
        if (plan.Model is not null)
            words.AddRange(["--model", plan.ModelName]);
        foreach (Option<string[]?> option in new[] { _tasks, _methods, _seeds })
            if (p.Given(option) is { } given)
                words.AddRange([option.Name, .. given.Select(g => g.Contains(' ', StringComparison.Ordinal) ? $"\"{g}\"" : g)]);
        if (p.GetValue(_budget) is { } budget)
            words.AddRange(["--kl_budget", budget.ToString(CultureInfo.InvariantCulture)]);
        return string.Join(' ', words);
    }
}
