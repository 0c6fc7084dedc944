using Repeng.Cli.Verbs;
using Repeng.Steering.Adapters;
using Repeng.Steering.Adapters.Peft;
using Repeng.Steering.Data;
using Repeng.Steering.Demo;
using Repeng.Steering.Evaluation;
using Repeng.Steering.Generation;
using Repeng.Steering.Models;
using Repeng.Steering.Training;
using Repeng.Steering.Vectors;

namespace Repeng.Cli.Results;

/// <summary>A model with a task's questions and neutral texts, and what the methods of one seed share: pairs, activations, gradients.</summary>
internal sealed class ResultsSubject : IDisposable
{
    private const int Batch = 16;

    /// <summary>KL is met to this part of the budget; what that moves an effect by is far below its error.</summary>
    public const double Tolerance = 0.05;
    private const string Plain = "no steering";
    private readonly ModelBundle _bundle;
    private readonly ResultsTask _task;
    private readonly double _budget;
    private readonly CancellationToken _stop;
    private readonly ChoiceItem[] _items;
    private readonly TruthEvaluator _evaluator;
    private readonly EvalCell _plain;
    private readonly NeutralKl _neutral;
    private readonly string[] _modules;
    private readonly Dictionary<string, Representations> _rows = [];
    private ulong? _seed;
    private List<TokenPair> _pairs = [];

    public ResultsSubject(ModelBundle bundle, ResultsTask task, double budget, CancellationToken stop)
    {
        (_bundle, _task, _budget, _stop) = (bundle, task, budget, stop);
        _items = task.Items(bundle);
        string[] ends = task.Blocks.Split(':');
        _modules = LayerSelection.Modules(bundle.Model, null, (LayerSelection.End.Parse(ends[0]), LayerSelection.End.Parse(ends[1])));
        // Of a short model most of it is steered by some method, and costs little anyway.
        PlainPrefix? prefix = task.Demo ? null : new PlainPrefix(bundle.Model, LayerSelection.BlockOf(bundle.Model, _modules[0])!.Value);
        _evaluator = new TruthEvaluator(bundle.Model, Batch) { MeasureInput = true, Prefix = prefix };
        _plain = new EvalCell(Plain, 0, _evaluator.Run(_items, Steering.Generation.Steering.None, 0));
        NeutralTexts texts = NeutralTexts.Load(bundle);
        _neutral = new NeutralKl(bundle.Model, texts with { Rows = [.. texts.Rows.Take(task.Neutral.Count).Select(r => r.Length <= task.Neutral.Tokens ? r : r[..task.Neutral.Tokens])] }, prefix: prefix);
    }

    /// <summary>Questions.</summary>
    public int Questions => _items.Length;

    /// <summary>Makes a method and measures it. settings gives those of training with more options.</summary>
    public ResultsRecord Measure(ResultsRecord record, ResultsMethod method, Func<IReadOnlyList<string>, RunSettings> settings, IReadOnlyList<double> doses)
    {
        Share(record.Seed, settings);
        switch (method.Kind)
        {
            case ResultsKind.Unsteered:
                return record with { Points = [Point(EvalRun.Of([_plain]).Rows[0], 0, 0)] };
            case ResultsKind.Prompts:
                return Prompts(record, settings([]));
            case ResultsKind.Random:
                return Steered(record, BlockVectors.RandomLike(Vector(["--method", "mean_diff"]), record.Seed), doses);
            case ResultsKind.Vector:
                return Steered(record, Vector(method.For(_task.Demo)), doses);
            case ResultsKind.WeightSvd:
                return WeightSvd(record, method, doses);
            default:
                return Trained(record, settings([.. _task.Training, .. method.For(_task.Demo), "--save_checkpoints", "false"]), doses);
        }
    }

    /// <summary>Lets the shared rows go.</summary>
    public void Dispose()
    {
        foreach (Representations rows in _rows.Values)
            rows.Dispose();
        _rows.Clear();
    }

    // Everything that a seed's methods share; another seed begins anew.
    private void Share(ulong seed, Func<IReadOnlyList<string>, RunSettings> settings)
    {
        if (_seed == seed)
            return;
        Dispose();
        _pairs = TrainRun.Pairs(_bundle, settings([]));
        _seed = seed;
    }

    private ControlVector Vector(IReadOnlyList<string> options)
    {
        VectorMethod method = VectorMethod.Parse(Option("--method")!);
        bool gradients = method.Needs.HasFlag(VectorNeeds.Gradients);
        string loss = Option("--loss") ?? RepresentationSettings.DefaultLoss, key = gradients ? loss : "outputs";
        if (!_rows.TryGetValue(key, out Representations? rows))
            // Log-probabilities cost little more than the outputs, and some of these methods need them.
            _rows[key] = rows = Representations.Collect(_bundle.Model, _modules, _pairs, _bundle.PadId, VectorNeeds.Hidden | (gradients ? VectorNeeds.Gradients : VectorNeeds.LogProb),
                new RepresentationSettings { Loss = loss, TokenFromEnd = gradients ? 2 : 1 }, (_, _) => _stop.ThrowIfCancellationRequested());
        return ControlVectorTrainer.FromRows(_bundle.Model, _modules, rows, method);

        string? Option(string name) => options.Index().Where(o => o.Item == name).Select(o => options[o.Index + 1]).FirstOrDefault();
    }

    private ResultsRecord WeightSvd(ResultsRecord record, ResultsMethod method, IReadOnlyList<double> doses)
    {
        string[] linears = [.. LayerSelection.Modules(_bundle.Model, WeightSvdSteering.DefaultLayers(_bundle.Model), null).Where(m => _modules.Contains(_bundle.Model.Blocks[LayerSelection.BlockOf(_bundle.Model, m)!.Value].Path))];
        using PeftAdapter edit = WeightSvdSteering.Train(_bundle.Model, linears, _pairs, _bundle.PadId, WeightSvdSteering.RankOf(method.Name)!.Value, new RepresentationSettings(), _bundle.Name, (_, _, _) => _stop.ThrowIfCancellationRequested());
        return Steered(record, new Steering.Generation.Steering(edit), doses);
    }

    private ResultsRecord Trained(ResultsRecord record, RunSettings settings, IReadOnlyList<double> doses)
    {
        string folder = Directory.CreateTempSubdirectory("repeng-results-").FullName;
        try
        {
            using TrainOutcome outcome = TrainRun.Execute(_bundle, settings, Path.Combine(folder, "run"), resume: false, new TrainRunListener(), _stop);
            _stop.ThrowIfCancellationRequested();
            return Steered(record with { TrainedValues = outcome.Adapter.ParameterCount }, new Steering.Generation.Steering(outcome.Adapter), doses);
        }
        finally
        {
            Directory.Delete(folder, recursive: true);
        }
    }

    private ResultsRecord Steered(ResultsRecord record, ControlVector vector, IReadOnlyList<double> doses)
    {
        using var control = new VectorControl(_bundle.Model, vector);
        return Steered(record, new Steering.Generation.Steering(null, control), doses);
    }

    private ResultsRecord Steered(ResultsRecord record, Steering.Generation.Steering steering, IReadOnlyList<double> doses)
    {
        Calibration found = Calibration.Run(_neutral, steering, _budget, _bundle.Name, progress: (_, _) => _stop.ThrowIfCancellationRequested(), tolerance: Tolerance, guess: true);
        (double minus, double plus) = found.Coefficients;
        (double Dose, float C)[] points =
        [
            .. new[] { 1.0 }.Concat(doses).Distinct().SelectMany(d => new[] { (Dose: -d, C: (float)(d * minus)), (Dose: d, C: (float)(d * plus)) }).Where(p => float.IsFinite(p.C)).OrderBy(p => p.Dose),
        ];
        // Damage and change are against the plain model, also of adapters that change it at c = 0.
        var cells = new List<EvalCell> { _plain, _plain with { Method = record.Method } };
        foreach ((double _, float c) in points)
        {
            _stop.ThrowIfCancellationRequested();
            cells.Add(new EvalCell(record.Method, c, _evaluator.Run(_items, steering, c)));
        }
        EvalRun run = EvalRun.Of(cells);
        record = record with
        {
            Minus = Side(found.Minus, -1),
            Plus = Side(found.Plus, 1),
            Points = [.. points.Select(p => Point(run.Rows.First(r => r.Method == record.Method && r.Coefficient == p.C), p.Dose, p.C))],
        };
        return double.IsFinite(minus) && double.IsFinite(plus) ? WithEffect(record, run.Spread((record.Method, (float)minus), (record.Method, (float)plus))) : record;
    }

    // Each seed has a pair of words of its own where a set has several.
    private ResultsRecord Prompts(ResultsRecord record, RunSettings texts)
    {
        PersonaPair words = texts.Personas[(int)(record.Seed % (ulong)texts.Personas.Count)];
        EvalCell[] cells = [.. new[] { (Who: "negative", Word: words.Negative, Audience: DemoAudience.SeenUntruthful), (Who: "positive", Word: words.Positive, Audience: DemoAudience.SeenTruthful) }.Select(p =>
            new EvalCell(p.Who, 0, _evaluator.Run(_task.Items(_bundle, _task.Demo ? null : texts.Template.Replace(PairTexts.Placeholder, p.Word, StringComparison.Ordinal), p.Audience), Steering.Generation.Steering.None, 0)))];
        EvalRun run = EvalRun.Of([_plain, .. cells]);
        return WithEffect(record with { Points = [Point(run.Rows[1], -1, null), Point(run.Rows[2], 1, null)] }, run.Spread(("negative", 0), ("positive", 0)));
    }

    private static ResultsRecord WithEffect(ResultsRecord record, (double Effect, double Error, int Count) spread) => record with { Effect = Round(spread.Effect), EffectError = Round(spread.Error), Questions = spread.Count };

    private static ResultsSide Side(CalibratedSide side, int sign) => new(
        side.Search.Outcome switch { BudgetOutcome.Reached => "reached", BudgetOutcome.NeverReached => "never reached", _ => "always exceeded" }, Round(sign * side.Search.Coefficient), Round(side.Kl.P95));

    private static ResultsPoint Point(EvalRow row, double dose, double? c) => new(dose, c is { } known ? Round(known) : null, Round(row.LogOdds), Round(row.Change), Round(row.ChangeError), Round(row.Mass) ?? 0,
        c is null ? null : Round(row.InputNllRise), c is null ? null : row.Coherent);

    // Seven digits are what single precision has.
    private static double? Round(double x) => double.IsFinite(x) ? double.Parse(x.ToString("G7", System.Globalization.CultureInfo.InvariantCulture), System.Globalization.CultureInfo.InvariantCulture) : null;
}
