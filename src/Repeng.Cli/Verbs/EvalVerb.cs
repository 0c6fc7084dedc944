using System.CommandLine;
using Repeng.Cli.Reports;
using Repeng.Kernels;
using Repeng.Runtime;
using Repeng.Steering.Adapters;
using Repeng.Steering.Data;
using Repeng.Steering.Demo;
using Repeng.Steering.Evaluation;
using Repeng.Steering.Generation;
using Repeng.Steering.Models;
using Repeng.Steering.Training;

namespace Repeng.Cli.Verbs;

/// <summary>eval: measures adapters and control vectors on questions, beside plain baselines.</summary>
public sealed class EvalVerb
{
    // Where nothing was asked for: an adapter's own scale.
    private static readonly double[] s_doses = [-2, -1, 0, 1, 2];

    // Enough questions to see a nat of input NLL; a search puts them a dozen times.
    private const int RangeQuestions = 32;
    private const string DilemmaSet = "dilemmas", Binary = "binary", Mood = "mood";
    private readonly Option<string?> _model = Opt.Text("--model", "MODEL", "folder, .gguf file, repository of the hub (org/name) or demo (default: the adapter's base model, else demo)", "--model_name");
    private readonly Option<string[]?> _adapters = Opt.Paths("--adapter", "PATH", "adapters that train or PEFT wrote, or LoRAs of llama.cpp (.gguf), one or several (default: the model alone)");
    private readonly Option<double[]?> _adapterWeights = AdapterOptions.Weights("the adapters act together as one method, each at the coefficient times its weight (default: each is measured by itself)");
    private readonly Option<string[]?> _vectors = Opt.Paths("--vector", "FILE", "control vectors (.gguf), one or several");
    private readonly Option<bool?> _normalize = Opt.Flag("--normalize", "with --vector: give each steered output the length back that it had before the vector was added");
    private readonly Option<double[]?> _coefficients = Opt.Numbers("--coefficients", "steering coefficients; 0 is always measured too (default -2 -1 0 1 2, with --calibrate each method's own)");
    private readonly Option<bool?> _calibrate = Opt.Flag("--calibrate", "find, of both signs, the coefficient at which p95 KL on neutral texts meets the budget, and how far c can go before the model is incoherent; kept with the adapter or vector");
    private readonly Option<double?> _budget = Opt.Number("--kl_budget", "with --calibrate: nats (default 1)");
    private readonly Option<string?> _neutral = Opt.Text("--neutral", "FILE", "neutral texts that KL is measured on: .json (an array of strings) or one a line (default: our own)");
    private readonly Option<bool?> _kl = Opt.Flag("--kl", "measure KL of the plain model from the steered one on neutral texts (default true)");
    private readonly Option<string?> _set = Opt.Choice("--set", "truth: statements to end, in the demo its world's questions; binary: yes-or-no questions of common knowledge; mood: yes-or-no questions about mood, with the happy answer for the true one (default truth)", "truth", Binary, Mood);
    private readonly Option<string?> _questions = Opt.Text("--questions", "FILE", "more questions for the binary set, a line each: {\"question\": \"…\", \"answer\": \"yes\"}");
    private readonly Option<string?> _dilemmas = Opt.Text("--dilemmas", "FILE", "instead of a set: dilemmas, a line each: {\"situation\": \"…\", \"action\": \"…\", \"values\": {\"truthfulness\": 1}}; own: the built-in ones");
    private readonly Option<string?> _target = Opt.Text("--target_value", "VALUE", "with --dilemmas: the value that steering is to serve (default truthfulness)");
    private readonly Option<int?> _max = Opt.Int("--max_questions", "only the first N questions (default: all)");
    private readonly Option<bool?> _baselines = Opt.Flag("--baselines", "also measure no steering, a mean-difference and a PCA vector, a random direction, and the personas as prompts (default true, where an adapter's training texts are known)");
    private readonly TrainOptions _texts = new();
    private readonly Option<int?> _batch = Opt.Int("--batch_size", "questions a batch (default 16)");
    private readonly Option<ulong?> _seed = Opt.Seed("--seed", "key of the random directions and of generated answers (default 42)");
    private readonly Option<int?> _seeds = Opt.Int("--seeds", "seeds from --seed on: as many random directions, and with --generate_answers as many answers to each question (default 1)", "--repeats");
    private readonly Option<bool?> _generate = Opt.Flag("--generate_answers", "binary set and dilemmas: the model writes its answer, and the token that completes \"Final choice: Yes|No\" decides; else the answer is begun for it");
    private readonly Option<int?> _maxNew = Opt.Int("--max_new_tokens", "with --generate_answers: tokens of an answer at most (default 32)");
    private readonly Option<int?> _maxThink = Opt.Int("--max_think_tokens", "with --generate_answers, of thinking models: tokens of a block of thoughts at most (default 512); a block that is cut is counted and not scored");
    private readonly Option<bool?> _force = Opt.Flag("--force_close", "with --generate_answers: put the closing tag and \"Final choice:\" behind a block that was cut, and score the token after it");
    private readonly Option<double?> _temperature = Opt.Number("--temperature", "with --generate_answers (default 1.3)");
    private readonly Option<double?> _minP = Opt.Number("--min_p", "with --generate_answers (default 0.05)");
    private readonly Option<double?> _penalty = Opt.Number("--repetition_penalty", "with --generate_answers (default 1.2)");
    private readonly Option<string?> _output = Opt.Text("--output_dir", "FOLDER", "where eval_results.csv, eval_summary.csv, compared.csv, eval.json and the plots eval, effect (of dilemmas also p_yes.csv, transfer.csv, p_yes) go (default: nowhere)");
    private readonly WeightOptions _weights = new();
    private readonly DeviceOption _device = new();
    private readonly Session _session;

    private EvalVerb(Session session) => _session = session;

    /// <summary>The verb.</summary>
    public static Command Create(Session session)
    {
        var verb = new EvalVerb(session);
        var command = new Command("eval", "Measure on questions what adapters and control vectors do, beside plain vectors and prompts");
        foreach (Option o in new Option[] { verb._model, verb._adapters, verb._adapterWeights, verb._vectors, verb._normalize, verb._coefficients, verb._calibrate, verb._budget, verb._neutral, verb._kl, verb._set, verb._questions, verb._dilemmas, verb._target, verb._max, verb._baselines }.Concat(verb._texts.Pairs).Concat(new Option[] { verb._batch, verb._seed, verb._seeds, verb._generate, verb._maxNew, verb._texts.EnableThinking, verb._texts.ThinkTag, verb._maxThink, verb._force, verb._temperature, verb._minP, verb._penalty, verb._output }).Concat(verb._weights.All).Concat(verb._device.All))
            command.Options.Add(o);
        command.SetAction(verb.Run);
        return command;
    }

    private int Run(ParseResult p)
    {
        Request r = Read(p);
        HubModels.Ready(_session, r.Model);
        using Device device = _device.Open(p, _session);
        using ModelBundle bundle = ModelBundle.Load(device, r.Model, _weights.Read(p), remark: _session.Say);
        bundle.EnableThinking = p.GetValue(_texts.EnableThinking);
        ThinkingAnswers? thinking = ReadThinking(p, bundle, r);
        using var methods = new EvalMethods(bundle, _session);
        bool steers = r.Adapters.Length + r.Vectors.Length > 0;
        if (r.Baselines is not null || !steers || r.Adapters.Length + r.Vectors.Length > 1)
            methods.AddPlain(steers || r.Baselines is not null ? EvalMethods.Unsteered : "model alone");
        if (r.Weights is { } weights)
            methods.AddCombined(r.Adapters, weights);
        else
            foreach (string folder in r.Adapters)
                methods.AddAdapter(folder, r.Adapters.Length == 1);
        foreach (string file in r.Vectors)
            methods.AddVector(file, r.Normalize);
        if (r.Baselines is { } texts)
            methods.AddBaselines(texts, r.Seed, r.Seeds, (persona, audience) => Items(p, bundle, r, thinking is not null, persona, audience));
        ChoiceItem[] items = Items(p, bundle, r, thinking is not null, null, null);
        NeutralKl? neutral = r.Kl ? new NeutralKl(bundle.Model, NeutralTexts.Load(bundle, p.GetValue(_neutral))) : null;
        var limits = new EvalLimits(r.Budget, neutral?.Texts);
        if (r.Calibrate)
            Calibrate(r, bundle, methods, items, neutral!, limits);
        List<EvalMethod> measured = [.. methods.Subjects.Select(s => new EvalMethod(s.Name, s.Steering, s.Steered ? r.Coefficients ?? limits.Doses(s.Name) ?? [.. s_doses.Select(c => (float)c)] : [0], s.Persona?.Invoke() ?? items))];
        EvalRun run = EvalRun.Run(bundle.Model, measured, r.Batch, (method, c) => _session.Say($"{method}, c = {Format.Coefficient(c)}: {items.Length} questions done"), _session.Stop,
            r.Generates ? new GeneratedAnswers(bundle, r.Sampling, r.MaxNew, r.Seeds, r.Batch, thinking) : null, neutral);
        var report = new EvalReport(run, limits, methods.Subjects, _session) { Model = r.Model, Adapters = r.Adapters, Vectors = r.Vectors };
        if (r.Dilemmas is null)
            report.Write(r.Set, p.GetValue(_output));
        else
            new DilemmaReport(new DilemmaRun(run, r.Dilemmas, r.Target), report, _session).Write(p.GetValue(_dilemmas)!, p.GetValue(_output));
        return ExitCodes.Ok;
    }

    private sealed record Request(string Model, string[] Adapters, float[]? Weights, string[] Vectors, bool Normalize, float[]? Coefficients, bool Calibrate, double Budget, bool Kl, string Set, IReadOnlyList<Dilemma>? Dilemmas, string Target,
        RunSettings? Baselines, int Batch, ulong Seed, int Seeds, bool Generates, int MaxNew, SamplingSettings Sampling);

    // Everything that can be wrong with the command line and its small files is found here, before a model is loaded.
    private Request Read(ParseResult p)
    {
        (string[] adapters, float[] each) = AdapterOptions.Read(_session, p, _adapters, _adapterWeights);
        float[]? weights = p.Given(_adapterWeights) is null ? null : each;
        string[] vectors = p.Given(_vectors) ?? [];
        bool steers = adapters.Length + vectors.Length > 0;
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
        if (p.GetValue(_questions) is not null && set != Binary)
            throw new UserErrorException("--questions FILE belongs to the binary set; add --set binary");
        int seeds = p.GetValue(_seeds) ?? 1, maxNew = p.GetValue(_maxNew) ?? 32;
        bool generates = p.GetValue(_generate) == true;
        if (seeds < 1)
            throw new UserErrorException($"--seeds {seeds} must be at least 1");
        if (maxNew < 1)
            throw new UserErrorException($"--max_new_tokens {maxNew} must be at least 1");
        if (generates && set is not (Binary or Mood or DilemmaSet))
            throw new UserErrorException("--generate_answers belongs to yes-or-no questions and to dilemmas; add --set binary, --set mood or --dilemmas FILE");
        if (p.GetValue(_maxThink) is < 1)
            throw new UserErrorException($"--max_think_tokens {p.GetValue(_maxThink)} must be at least 1");
        if (!generates && new Option[] { _maxNew, _maxThink, _force, _temperature, _minP, _penalty }.FirstOrDefault(o => p.GetResult(o) is { Implicit: false }) is { } idle)
            throw new UserErrorException($"{idle.Name} says how answers are written, and none is: add --generate_answers or leave it out");
        if (!generates)
            _texts.RefuseIdleTag(p);
        if (p.GetValue(_normalize) is not null && vectors.Length == 0)
            throw new UserErrorException("--normalize without --vector has nothing to act on; give --vector FILE");
        ulong seed = p.GetValue(_seed) ?? 42;
        var sampling = new SamplingSettings { Sample = true, Temperature = (float)(p.GetValue(_temperature) ?? 1.3), MinP = (float)(p.GetValue(_minP) ?? 0.05), RepetitionPenalty = (float)(p.GetValue(_penalty) ?? 1.2), Seed = seed };
        sampling.Validate();
        double[]? given = p.Given(_coefficients);
        if (!steers && p.GetValue(_baselines) != true && given?.Any(c => c != 0) == true)
            throw new UserErrorException($"--coefficients {Format.Coefficient(given.First(c => c != 0))} without --adapter, --vector or --baselines has nothing to steer with; give --adapter FOLDER or --vector FILE");
        string model = p.GetValue(_model) ?? (adapters.Length == 0 ? null : AdapterFile.ReadBaseModel(adapters[0])) ?? ModelBundle.Demo;
        if (set is Binary or Mood or DilemmaSet && model == ModelBundle.Demo)
            throw new UserErrorException($"{(set == DilemmaSet ? "--dilemmas" : $"--set {set}")}: the demo model knows nothing but its own small world and cannot answer yes or no; take --set truth, or another --model");
        (bool calibrate, double budget, bool kl) = ReadLimits(p, steers);
        IReadOnlyList<Dilemma>? dilemmas = p.GetValue(_dilemmas) is not { } source ? null : source == Dilemmas.OwnName ? Dilemmas.Own : Dilemmas.Load(source);
        string target = (p.GetValue(_target) ?? "truthfulness").Trim().ToLowerInvariant();
        dilemmas = p.GetValue(_max) is { } most ? dilemmas?.Take(most).ToArray() : dilemmas;
        if (dilemmas is not null)
            DilemmaRun.RequireTarget(dilemmas, target);
        return new Request(model, adapters, weights, vectors, p.GetValue(_normalize) == true, given is null ? null : [.. given.Select(c => (float)c)], calibrate, budget, kl, set, dilemmas, target, Trained(p, adapters, model), batch, seed, seeds, generates, maxNew, sampling);
    }

    // Null where answers have no thoughts: they are not written, the model is no thinking one, or thinking is switched off.
    private ThinkingAnswers? ReadThinking(ParseResult p, ModelBundle bundle, Request r)
    {
        string? tag = Thinking.ReadTag(p, _texts.ThinkTag);
        Option? need = new Option[] { _maxThink, _force }.FirstOrDefault(o => p.GetResult(o) is { Implicit: false });
        if (bundle.EnableThinking == false && (need ?? (tag is null ? null : _texts.ThinkTag)) is { } idle)
            throw new UserErrorException($"{idle.Name} beside --no-enable_thinking: there are no thoughts; leave one out");
        if (!r.Generates || bundle.EnableThinking == false || tag is null && need is null && bundle.Thinking?.Tags is null)
            return null;
        return new ThinkingAnswers(bundle.ThinkTags(tag, need?.Name ?? _texts.ThinkTag.Name), p.GetValue(_maxThink) ?? 512, p.GetValue(_force) == true);
    }

    private (bool Calibrate, double Budget, bool Kl) ReadLimits(ParseResult p, bool steers)
    {
        bool calibrate = p.GetValue(_calibrate) == true;
        if (calibrate && !steers && p.GetValue(_baselines) != true)
            throw new UserErrorException("--calibrate has nothing to calibrate; give --adapter FOLDER, --vector FILE or --baselines");
        if (calibrate && p.GetValue(_kl) == false)
            throw new UserErrorException("--calibrate measures KL; leave --no-kl out");
        if (!calibrate && p.GetValue(_budget) is not null)
            throw new UserErrorException("--kl_budget says what --calibrate is to meet; add --calibrate or leave it out");
        if (p.GetValue(_budget) is { } nats and <= 0)
            throw new UserErrorException($"--kl_budget {nats} must be above 0 nats");
        if (p.GetValue(_neutral) is not null && p.GetValue(_kl) == false)
            throw new UserErrorException("--neutral beside --no-kl: no KL is measured on those texts; leave one out");
        // With nothing that steers there is no difference to measure.
        return (calibrate, p.GetValue(_budget) ?? 1, p.GetValue(_kl) ?? (steers || p.GetValue(_baselines) == true || p.GetValue(_neutral) is not null));
    }

    // The texts that baselines are made from: asked for and not there is an error, else a remark.
    private RunSettings? Trained(ParseResult p, string[] adapters, string model)
    {
        bool? asked = p.GetValue(_baselines);
        Option? text = _texts.Pairs.FirstOrDefault(o => p.GetResult(o) is { Implicit: false });
        if (asked == false)
            return text is null ? null : throw new UserErrorException($"{text.Name} says what the baselines are made from; leave --no-baselines out");
        if (text is not null)
            return _texts.Settings(p, model, TrainVerb.ReadConfig(model));
        foreach (string path in adapters.Select(a => Path.Combine(a, TrainRun.SettingsName)))
            if (File.Exists(path))
                return RunSettings.Load(path);
        if (asked == true && adapters.Length == 0)
            return _texts.Settings(p, model, TrainVerb.ReadConfig(model));
        if (asked == true)
            throw new UserErrorException($"--baselines: {Path.Combine(adapters[0], TrainRun.SettingsName)} is not there, and the baselines need the training texts; give a folder that train wrote, or --personas A:B");
        if (adapters.Length > 0)
            _session.Say($"no {TrainRun.SettingsName} in {string.Join(", ", adapters)}: no baselines");
        return null;
    }

    private void Calibrate(Request r, ModelBundle bundle, EvalMethods methods, ChoiceItem[] items, NeutralKl neutral, EvalLimits limits)
    {
        foreach (EvalSubject s in methods.Subjects.Where(s => s.Steered))
        {
            bool normalized = r.Normalize && r.Vectors.Contains(s.Source);
            Calibration found = Calibration.Run(neutral, s.Steering, r.Budget, r.Model, normalized, (c, kl) =>
            {
                _session.Stop.ThrowIfCancellationRequested();
                _session.Say($"{s.Name}, c = {Format.Coefficient(c)}: p95 KL {Format.Number(kl.P95)} nats over {kl.Positions} tokens");
            });
            limits.Calibrations.Add(s.Name, found);
            if (s.Source is not null)
                _session.Say($"kept in {found.Save(s.Source)}");
            if (s.Source is null)
                continue;
            double start = found.Plus.Search.Outcome == BudgetOutcome.Reached ? found.Plus.Search.Coefficient : 1;
            limits.Ranges.Add(s.Name, UsableRange.Find(bundle.Model, [.. items.Take(RangeQuestions)], s.Steering, start, r.Batch, _session.Stop));
        }
        new LimitsReport(limits, _session).Print();
    }

    private ChoiceItem[] Items(ParseResult p, ModelBundle bundle, Request r, bool thinking, string? persona, DemoAudience? audience)
    {
        if (r.Dilemmas is not null)
            return DilemmaRun.Items(bundle, r.Dilemmas, r.Target, persona, r.Generates, thinking);
        IReadOnlyList<BinaryQuestion>? questions = r.Set switch
        {
            Binary => [.. BinaryQuestions.Items, .. p.GetValue(_questions) is { } file ? BinaryQuestions.Load(file) : []],
            Mood => BinaryQuestions.Mood,
            _ => null,
        };
        ChoiceItem[] items = questions is not null
            ? r.Generates ? EvalItems.BinaryToGenerate(bundle, questions, persona, thinking) : EvalItems.Binary(bundle, questions, persona)
            : bundle.IsDemo ? DemoItems.Load(new DemoWorld(), audience ?? DemoAudience.None) : EvalItems.Truth(bundle, TruthEvaluation.Items, persona);
        return [.. items.Take(p.GetValue(_max) ?? items.Length)];
    }
}
