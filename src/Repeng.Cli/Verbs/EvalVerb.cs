using System.CommandLine;
using System.Text.Encodings.Web;
using System.Text.Json;
using System.Text.Json.Nodes;
using Repeng.Cli.Reports;
using Repeng.Kernels;
using Repeng.Runtime;
using Repeng.Runtime.Formats;
using Repeng.Steering.Adapters;
using Repeng.Steering.Data;
using Repeng.Steering.Demo;
using Repeng.Steering.Evaluation;
using Repeng.Steering.Generation;
using Repeng.Steering.Models;
using Repeng.Steering.Training;
using Repeng.Steering.Vectors;

namespace Repeng.Cli.Verbs;

/// <summary>eval: measures an adapter on questions, beside plain control vectors and prompts.</summary>
public sealed class EvalVerb
{
    // Enough pairs that a mean difference is settled, few enough that it costs little.
    private const int BaselinePairs = 64;
    private const string DilemmaSet = "dilemmas";
    private static readonly JsonSerializerOptions s_json = new() { WriteIndented = true, Encoder = JavaScriptEncoder.UnsafeRelaxedJsonEscaping };

    private readonly Option<string?> _model = Opt.Text("--model", "MODEL", "folder, .gguf file or demo (default: the adapter's base model, else demo)", "--model_name");
    private readonly Option<string?> _adapter = Opt.Text("--adapter", "FOLDER", "adapter that train wrote (default: the model alone)");
    private readonly Option<double[]?> _coefficients = Opt.Numbers("--coefficients", "steering coefficients; 0 is always measured too (default -2 -1 0 1 2)");
    private readonly Option<string?> _set = Opt.Choice("--set", "truth: statements to end, in the demo its world's questions; binary: yes-or-no questions (default truth)", "truth", "binary");
    private readonly Option<string?> _questions = Opt.Text("--questions", "FILE", "more questions for the binary set, a line each: {\"question\": \"…\", \"answer\": \"yes\"}");
    private readonly Option<string?> _dilemmas = Opt.Text("--dilemmas", "FILE", "instead of a set: dilemmas, a line each: {\"situation\": \"…\", \"action\": \"…\", \"values\": {\"truthfulness\": 1}}; own: the built-in ones");
    private readonly Option<string?> _target = Opt.Text("--target_value", "VALUE", "with --dilemmas: the value that steering is to serve (default truthfulness)");
    private readonly Option<int?> _max = Opt.Int("--max_questions", "only the first N questions (default: all)");
    private readonly Option<bool?> _baselines = Opt.Flag("--baselines", "also measure a mean-difference control vector, a random direction of its length, and the personas as prompts (default true, where the adapter's training texts are known)");
    private readonly Option<int?> _batch = Opt.Int("--batch_size", "questions a batch (default 16)");
    private readonly Option<ulong?> _seed = Opt.Seed("--seed", "key of the random directions and of generated answers (default 42)");
    private readonly Option<int?> _seeds = Opt.Int("--seeds", "seeds from --seed on: as many random directions, and with --generate_answers as many answers to each question (default 1)", "--repeats");
    private readonly Option<bool?> _generate = Opt.Flag("--generate_answers", "binary set and dilemmas: the model writes its answer, and the token that completes \"Final choice: Yes|No\" decides; else the answer is begun for it");
    private readonly Option<int?> _maxNew = Opt.Int("--max_new_tokens", "with --generate_answers: tokens of an answer at most (default 32)");
    private readonly Option<double?> _temperature = Opt.Number("--temperature", "with --generate_answers (default 1.3)");
    private readonly Option<double?> _minP = Opt.Number("--min_p", "with --generate_answers (default 0.05)");
    private readonly Option<double?> _penalty = Opt.Number("--repetition_penalty", "with --generate_answers (default 1.2)");
    private readonly Option<string?> _output = Opt.Text("--output_dir", "FOLDER", "where eval_results.csv, eval_summary.csv, eval.json and eval.png (of dilemmas also p_yes.csv, transfer.csv, p_yes.png) go (default: nowhere)");
    private readonly Option<string?> _device = DeviceOption.Create();
    private readonly Option<int?> _threads = DeviceOption.CreateThreads();
    private readonly Session _session;

    private EvalVerb(Session session) => _session = session;

    /// <summary>The verb.</summary>
    public static Command Create(Session session)
    {
        var verb = new EvalVerb(session);
        var command = new Command("eval", "Measure on questions what an adapter does, beside control vectors and prompts");
        foreach (Option o in new Option[] { verb._model, verb._adapter, verb._coefficients, verb._set, verb._questions, verb._dilemmas, verb._target, verb._max, verb._baselines, verb._batch, verb._seed, verb._seeds, verb._generate, verb._maxNew, verb._temperature, verb._minP, verb._penalty, verb._output, verb._device, verb._threads })
            command.Options.Add(o);
        command.SetAction(verb.Run);
        return command;
    }

    private int Run(ParseResult p)
    {
        string? folder = p.GetValue(_adapter);
        if (p.GetValue(_dilemmas) is not null && p.GetValue(_set) is { } both)
            throw new UserErrorException($"--dilemmas takes the place of a set; leave --set {both} out");
        if (p.GetValue(_dilemmas) is null && p.GetValue(_target) is not null)
            throw new UserErrorException("--target_value belongs to dilemmas; add --dilemmas FILE");
        string set = p.GetValue(_dilemmas) is null ? p.GetValue(_set) ?? "truth" : DilemmaSet;
        int batch = p.GetValue(_batch) ?? 16;
        if (batch < 1)
            throw new UserErrorException($"--batch_size {batch} must be at least 1");
        if (p.GetValue(_max) is < 1)
            throw new UserErrorException($"--max_questions {p.GetValue(_max)} must be at least 1");
        if (p.GetValue(_questions) is not null && set != "binary")
            throw new UserErrorException("--questions FILE belongs to the binary set; add --set binary");
        int seeds = p.GetValue(_seeds) ?? 1, maxNew = p.GetValue(_maxNew) ?? 32;
        bool generates = p.GetValue(_generate) == true;
        if (seeds < 1)
            throw new UserErrorException($"--seeds {seeds} must be at least 1");
        if (maxNew < 1)
            throw new UserErrorException($"--max_new_tokens {maxNew} must be at least 1");
        if (generates && set is not ("binary" or DilemmaSet))
            throw new UserErrorException("--generate_answers belongs to the binary set and to dilemmas; add --set binary or --dilemmas FILE");
        if (!generates && new Option[] { _maxNew, _temperature, _minP, _penalty }.FirstOrDefault(o => p.GetResult(o) is { Implicit: false }) is { } idle)
            throw new UserErrorException($"{idle.Name} says how answers are written, and none is: add --generate_answers or leave it out");
        ulong seed = p.GetValue(_seed) ?? 42;
        var sampling = new SamplingSettings { Sample = true, Temperature = (float)(p.GetValue(_temperature) ?? 1.3), MinP = (float)(p.GetValue(_minP) ?? 0.05), RepetitionPenalty = (float)(p.GetValue(_penalty) ?? 1.2), Seed = seed };
        sampling.Validate();
        double[]? given = p.Given(_coefficients);
        if (folder is null && given?.Any(c => c != 0) == true)
            throw new UserErrorException($"--coefficients {Format.Coefficient(given.First(c => c != 0))} without --adapter has nothing to steer with; give --adapter FOLDER");
        string model = p.GetValue(_model) ?? (folder is null ? null : AdapterFile.ReadBaseModel(folder)) ?? ModelBundle.Demo;
        if (set is "binary" or DilemmaSet && model == ModelBundle.Demo)
            throw new UserErrorException($"{(set == DilemmaSet ? "--dilemmas" : "--set binary")}: the demo model knows nothing but its own small world and cannot answer yes or no; take --set truth, or another --model");
        float[] coefficients = folder is null ? [0] : [.. (given ?? [-2, -1, 0, 1, 2]).Select(c => (float)c)];
        IReadOnlyList<Dilemma>? dilemmas = p.GetValue(_dilemmas) is not { } source ? null : source == Dilemmas.OwnName ? Dilemmas.Own : Dilemmas.Load(source);
        string target = (p.GetValue(_target) ?? "truthfulness").Trim().ToLowerInvariant();
        dilemmas = p.GetValue(_max) is { } most ? dilemmas?.Take(most).ToArray() : dilemmas;
        if (dilemmas is not null)
            DilemmaRun.RequireTarget(dilemmas, target);
        RunSettings? trained = Trained(folder, p.GetValue(_baselines));

        using Device device = DeviceOption.Open(p.GetValue(_device), p.GetValue(_threads), _session);
        using ModelBundle bundle = ModelBundle.Load(device, model);
        using IAdapter? adapter = folder is null ? null : AdapterFile.LoadAny(bundle.Model, folder);
        var methods = new List<EvalMethod> { new(adapter is null ? "model alone" : "adapter", new Steering.Generation.Steering(adapter), coefficients, Items(p, bundle, set, null, null, dilemmas, target)) };
        ControlVector? mean = adapter is null || trained is null ? null : MeanDifference(bundle, adapter, trained);
        using var vectors = new Owned();
        if (mean is not null)
            methods.Add(new EvalMethod("mean difference", vectors.Add(bundle, mean), coefficients, methods[0].Items));
        for (int k = 0; k < seeds && mean is not null; k++)
            methods.Add(new EvalMethod(seeds == 1 ? "random direction" : $"random direction, seed {seed + (ulong)k}", vectors.Add(bundle, BlockVectors.RandomLike(mean, seed + (ulong)k)), coefficients, methods[0].Items));
        if (trained is not null && bundle.IsDemo)
            foreach (DemoAudience audience in new[] { DemoAudience.SeenTruthful, DemoAudience.SeenUntruthful })
                methods.Add(new EvalMethod($"prompt: {TruthReport.Title(audience)}", Steering.Generation.Steering.None, [0], Items(p, bundle, set, null, audience, dilemmas, target)));
        else if (trained is not null)
            foreach (string word in new[] { trained.Personas[0].Positive, trained.Personas[0].Negative })
                methods.Add(new EvalMethod($"prompt: {word}", Steering.Generation.Steering.None, [0],
                    Items(p, bundle, set, trained.Template.Replace(PairTexts.Placeholder, word, StringComparison.Ordinal), null, dilemmas, target)));
        EvalRun run = EvalRun.Run(bundle.Model, methods, batch, (method, c) => _session.Say($"{method}, c = {Format.Coefficient(c)}: {methods[0].Items.Count} questions done"), _session.Stop,
            generates ? new GeneratedAnswers(bundle, sampling, maxNew, seeds, batch) : null);
        if (dilemmas is null)
            Report(run, model, folder, set, p.GetValue(_output));
        else
            new DilemmaReport(new DilemmaRun(run, dilemmas, target), _session).Write(model, folder, p.GetValue(_dilemmas)!, p.GetValue(_output));
        return ExitCodes.Ok;
    }

    private sealed class Owned : IDisposable
    {
        private readonly List<VectorControl> _vectors = [];

        public Steering.Generation.Steering Add(ModelBundle bundle, ControlVector vector)
        {
            _vectors.Add(new VectorControl(bundle.Model, vector));
            return new Steering.Generation.Steering(null, _vectors[^1]);
        }

        public void Dispose() => _vectors.ForEach(v => v.Dispose());
    }

    // The training texts, from which the baselines are made; asked for and not there is an error, else a remark.
    private RunSettings? Trained(string? folder, bool? asked)
    {
        if (asked == false || folder is null)
            return asked == true ? throw new UserErrorException("--baselines without --adapter: the baselines are made from an adapter's training texts; give --adapter FOLDER") : null;
        string path = Path.Combine(folder, TrainRun.SettingsName);
        if (File.Exists(path))
            return RunSettings.Load(path);
        if (asked == true)
            throw new UserErrorException($"--baselines: {path} is not there, and the baselines need the training texts; give a folder that train wrote");
        _session.Say($"no {TrainRun.SettingsName} in {folder}: no baselines");
        return null;
    }

    private ChoiceItem[] Items(ParseResult p, ModelBundle bundle, string set, string? persona, DemoAudience? audience, IReadOnlyList<Dilemma>? dilemmas, string target)
    {
        if (dilemmas is not null)
            return DilemmaRun.Items(bundle, dilemmas, target, persona, p.GetValue(_generate) == true);
        BinaryQuestion[] questions = set == "binary" ? [.. BinaryQuestions.Items, .. p.GetValue(_questions) is { } file ? BinaryQuestions.Load(file) : []] : [];
        ChoiceItem[] items = set == "binary"
            ? p.GetValue(_generate) == true ? EvalItems.BinaryToGenerate(bundle, questions, persona) : EvalItems.Binary(bundle, questions, persona)
            : bundle.IsDemo ? DemoItems.Load(new DemoWorld(), audience ?? DemoAudience.None) : EvalItems.Truth(bundle, TruthEvaluation.Items, persona);
        return [.. items.Take(p.GetValue(_max) ?? items.Length)];
    }

    private static ControlVector MeanDifference(ModelBundle bundle, IAdapter adapter, RunSettings trained)
    {
        List<TokenPair> pairs = TrainRun.Pairs(bundle, trained with { MaxPairs = trained.MaxPairs is > 0 and < BaselinePairs ? trained.MaxPairs : BaselinePairs });
        int[] blocks = [.. adapter.Modules.Select(LossLayers.BlockOf).Distinct().Order()];
        return BlockVectors.MeanDifference(bundle.Model, blocks, pairs, bundle.PadId);
    }

    private void Report(EvalRun run, string model, string? adapter, string set, string? output)
    {
        Spectre.Console.Table table = Format.Table("method", ">c", ">log-odds", ">change against c = 0", ">choice mass", ">valid", ">input NLL", ">coherent");
        foreach (EvalRow r in run.Rows)
            table.Row(r.Method, Format.Coefficient(r.Coefficient), $"{Format.Signed(r.LogOdds)} ± {Format.Number(r.LogOddsError, 2)}", $"{Format.Signed(r.Change)} ± {Format.Number(r.ChangeError, 2)}", Format.Number(r.Mass), Format.Number(r.ValidFraction, 2), $"{Format.Number(r.InputNll, 2)} ({Format.Signed(r.InputNllRise)})", r.Coherent ? "yes" : "no");
        _session.Print($"Log-odds of the true answer in nats, set {set}, mean ± standard error over {run.Cells[0].Results.Select(r => r.Key).Distinct().Count()} questions{(run.Rows[0].Draws > 1 ? $", {run.Rows[0].Draws} answers each" : "")}; input NLL in nats a token", table);
        if (run.Rows.All(r => r.Count == 0))
            _session.Say("no answer of any method has a final choice, so there is nothing to compare; give --max_new_tokens more room, a lower --temperature, --repetition_penalty 1, or leave --generate_answers out");
        if (run.Regressions.Count > 0)
        {
            Spectre.Console.Table slopes = Format.Table("method", ">slope", ">r²", ">p", ">valid", ">score", ">usable c");
            foreach ((string method, LogRatioRegression r) in run.Regressions)
                slopes.Row(method, $"{Format.Signed(r.Slope, 3)} ± {Format.Number(r.StandardError)}", Format.Number(r.R2), Format.Number(r.PValue), Format.Number(r.ValidFraction, 2), Format.Number(r.Score),
                    run.UsableRange[method] is { } usable ? $"{Format.Coefficient(usable.From)} … {Format.Coefficient(usable.To)}" : "none");
            _session.Print($"Mean log-odds against sign(c)·ln(1 + |c|); score = |slope|·valid²·r²; usable: input NLL rises by less than {EvalRow.MostRise} nat, choice mass at least {EvalRow.LeastMass} of that at c = 0, valid at least {EvalRow.LeastMass}", slopes);
        }
        if (output is null)
            return;
        Directory.CreateDirectory(output);
        AtomicFile.WriteText(Path.Combine(output, "eval_results.csv"), run.ResultsCsv());
        AtomicFile.WriteText(Path.Combine(output, "eval_summary.csv"), run.SummaryCsv());
        JsonObject json = run.ToJson();
        (json["model"], json["adapter"], json["set"]) = (model, adapter, set);
        AtomicFile.WriteText(Path.Combine(output, "eval.json"), json.ToJsonString(s_json) + "\n");
        Curve[] curves = [.. run.Rows.GroupBy(r => r.Method).Select(g => new Curve(g.Key, [.. g.Where(r => double.IsFinite(r.LogOdds)).Select(r => new CurvePoint(r.Coefficient, r.LogOdds, r.LogOddsError))]))];
        Plots.Png(Path.Combine(output, "eval.png"), curves, $"Set {set}", "log-odds of the true answer, nats", "steering coefficient c");
        _session.Print($"Written: {output}");
    }
}
