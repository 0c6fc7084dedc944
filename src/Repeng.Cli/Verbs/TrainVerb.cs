using System.CommandLine;
using System.Diagnostics;
using Repeng.Cli.Reports;
using Repeng.Kernels;
using Repeng.Runtime;
using Repeng.Runtime.Formats;
using Repeng.Steering.Adapters;
using Repeng.Steering.Adapters.Peft;
using Repeng.Steering.Logging;
using Repeng.Steering.Models;
using Repeng.Steering.Training;
using Repeng.Steering.Vectors;

namespace Repeng.Cli.Verbs;

/// <summary>train: makes an adapter, writes its folder and shows what it does.</summary>
public sealed class TrainVerb
{
    private const int DefaultEvalTokens = 128;
    private readonly TrainOptions _options = new();
    private readonly Session _session;

    private TrainVerb(Session session) => _session = session;

    /// <summary>The verb.</summary>
    public static Command Create(Session session)
    {
        var verb = new TrainVerb(session);
        var command = new Command("train", "Train a steering adapter; without options on the built-in demo model");
        foreach (Option o in verb._options.All)
            command.Options.Add(o);
        command.SetAction(verb.Run);
        return command;
    }

    private int Run(ParseResult p)
    {
        _options.RefuseMissing(p);
        string? resume = p.GetValue(_options.Resume);
        RunSettings settings;
        string folder;
        RunLogs? logs;
        if (resume is not null)
        {
            folder = Path.TrimEndingDirectorySeparator(resume);
            settings = LoadStopped(p, folder);
            logs = RunLogs.Resume(folder);
        }
        else
        {
            string model = p.GetValue(_options.Model) ?? ModelBundle.Demo;
            HubModels.Ready(_session, model);
            settings = _options.Settings(p, model, ReadConfig(model));
            folder = _options.Folder(p, settings, DateTime.Now);
            RunFolder.RequireFree(folder);
            logs = _options.Logs(p);
            logs?.RequireWritable(Path.GetFileName(folder));
        }
        using (logs)
        {
            try
            {
                int code = Train(p, settings, folder, resume is not null, logs);
                logs?.End(code);
                Name(logs);
                return code;
            }
            catch (Exception e)
            {
                EndAfter(e, logs);
                throw;
            }
        }
    }

    private void EndAfter(Exception error, RunLogs? logs)
    {
        try
        {
            logs?.End(CliApp.CodeOf(error, _session));
        }
        catch (UserErrorException)
        {
            // The error that led here matters more than a log without its end, and may well be that log's own.
        }
    }

    private void Name(RunLogs? logs)
    {
        if (logs?.WandbRunFolder is { } wandb)
            _session.Print($"W&B:     wandb sync {Quote(Path.GetRelativePath(".", wandb))}");
        if (logs?.TensorBoardRunFolder is { } board)
            _session.Print($"Events:  tensorboard --logdir {Quote(Path.GetRelativePath(".", Path.GetDirectoryName(board)!))}");
    }

    private int Train(ParseResult p, RunSettings settings, string folder, bool resume, RunLogs? logs)
    {
        HubModels.Ready(_session, settings.Model);
        using Device device = _options.Device.Open(p, _session);
        using ModelBundle bundle = ModelBundle.Load(device, settings.Model, settings.Storage, (_, _) => _session.Stop.ThrowIfCancellationRequested(), _session.Say);
        _session.Say($"model {settings.Model}: {bundle.Model.Config.ModelType}, {bundle.Model.Config.NumLayers} blocks, {Format.Bytes(bundle.Model.WeightBytes)} of weights; profile {settings.Train.Profile}");
        bundle.EnableThinking = settings.Thinking?.Enable;
        var progress = new TrainProgress(_session, p.GetValue(_options.LogN) ?? 10);
        var watch = Stopwatch.StartNew();
        using TrainOutcome outcome = Execute(bundle, settings, folder, resume, progress, logs);
        if (logs?.MissingFrom is { } gap)
            _session.Say($"the W&B log broke off before the checkpoint: its steps {gap} … are missing, metrics.jsonl in the run's folder has them");
        if (outcome.End == TrainingEnd.Stopped)
        {
            _session.Say($"stopped after batch {outcome.State.Step} of {progress.TotalBatches}; the checkpoint is in {outcome.Folder}");
            _session.Say($"go on with: {CliApp.Name} train --resume {Quote(outcome.Folder)}");
            return _session.StopCode;
        }
        Report(outcome, progress, settings);
        _session.Print($"Training took {Format.Duration(watch.Elapsed.TotalSeconds)} and {Format.Bytes(device.Pool.PeakReserved)} of device memory at its peak.");
        _session.Print();
        try
        {
            var examples = new TrainExamples(_session, bundle, outcome, new ExampleSettings(settings.EvalQuestions, p.GetValue(_options.EvalBatchSize) ?? 64, settings.EvalMaxTokens ?? DefaultEvalTokens));
            examples.Show();
            if (examples.Report is { } report)
                logs?.Summary(report.LogValues(outcome.Adapter.Kind));
        }
        catch (OperationCanceledException) when (_session.Stop.IsCancellationRequested)
        {
            _session.Say($"stopped; the adapter in {outcome.Folder} is complete, its evaluation was left out");
            return _session.StopCode;
        }
        _session.Print($"Adapter: {outcome.Folder}");
        _session.Print($"Try:     {CliApp.Name} generate --adapter {Quote(outcome.Folder)} --coefficient -2 0 2 --prompt \"{ExamplePrompts.For(bundle)[0]}\"");
        return ExitCodes.Ok;
    }

    private TrainOutcome Execute(ModelBundle bundle, RunSettings settings, string folder, bool resume, TrainProgress progress, RunLogs? logs)
    {
        try
        {
            return progress.Show(() => TrainRun.Execute(bundle, settings, folder, resume, logs is null ? progress : new TrainRunListeners(progress, logs), _session.Stop));
        }
        catch (UserErrorException e)
        {
            string partial = resume ? folder : folder + RunFolder.PartialSuffix;
            // Before training begins, what is wrong may be the checkpoint itself.
            if (progress.TotalBatches > 0 && Checkpoint.IsIn(partial))
                throw new UserErrorException($"{e.Message} (the last good checkpoint is in {partial})", e);
            throw;
        }
    }

    private RunSettings LoadStopped(ParseResult p, string folder)
    {
        _options.RefuseBesideResume(p);
        if (!Directory.Exists(folder))
            throw new UserErrorException($"--resume {folder}: no such folder; give the folder of a stopped run (it ends in {RunFolder.PartialSuffix})");
        if (!Checkpoint.IsIn(folder))
            throw new UserErrorException($"--resume {folder}: no {Checkpoint.Name} in it; give the folder of a stopped run (it ends in {RunFolder.PartialSuffix}), or start anew");
        RunSettings settings = RunSettings.Load(Path.Combine(folder, TrainRun.SettingsName));
        return settings with
        {
            Model = p.GetValue(_options.Model) ?? settings.Model,
            EvalQuestions = p.GetValue(_options.EvalQuestions) ?? settings.EvalQuestions,
            EvalMaxTokens = p.GetValue(_options.EvalTokens) ?? settings.EvalMaxTokens,
        };
    }

    internal static ModelConfig ReadConfig(string model)
    {
        (ModelConfig config, ITensorSource tensors, _) = ModelBundle.OpenConfig(model);
        tensors.Dispose();
        return config;
    }

    private void Report(TrainOutcome outcome, TrainProgress progress, RunSettings settings)
    {
        IAdapter adapter = outcome.Adapter;
        _session.Print($"Adapter: {adapter.Modules.Count} layers, {adapter.Kind}, {adapter.ParameterCount} trained values, {progress.TrainPairs} pairs, {outcome.State.OptimiserSteps} optimiser steps", Trained(adapter, outcome));
        if (progress.LastEpoch.Count > 0)
            _session.Print($"Last epoch: loss {Format.Number(progress.LastEpoch.Average(b => b.Loss))}{(progress.ValidationLoss is { } v ? $", validation loss {Format.Number(v)}" : "")}", Losses(progress));
        if (outcome.End == TrainingEnd.EarlyStop)
            _session.Print($"Ended early: {settings.Train.Patience} validations without improvement; the best parameters are kept.");
        if (outcome.Sign is { } sign)
            _session.Print($"Sign: after held-out texts the model leans toward the positive persona by {Format.Signed(sign.Plus, 3)} nats at c = +1 and {Format.Signed(sign.Minus, 3)} at c = -1{(sign.Flipped ? "; the adapter was turned round for that" : "")}.");
    }

    private static Spectre.Console.Table Trained(IAdapter adapter, TrainOutcome outcome)
    {
        Spectre.Console.Table table = Format.Table("layer", "blocks", ">shape", ">rank", ">values", "loss read at");
        int rank = adapter switch { SvdAdapter svd => svd.Config.Rank, PeftAdapter peft => peft.Config.Rank, _ => 0 };
        foreach (IGrouping<string, LinearModule> leaf in adapter.Modules.Select(m => adapter.Model.Linears[m]).GroupBy(l => l.Path[(l.Path.LastIndexOf('.') + 1)..]))
        {
            LinearModule[] layers = [.. leaf];
            table.Row(leaf.Key, string.Join(' ', layers.Select(l => LayerSelection.BlockOf(adapter.Model, l.Path))), $"{layers[0].Outputs} × {layers[0].Inputs}", rank == 0 ? "none" : $"{rank}",
                $"{adapter.Parameters.Where(t => layers.Any(l => t.Name!.StartsWith(l.Path + ".", StringComparison.Ordinal))).Sum(t => t.Length)}", string.Join(' ', outcome.LossLayers.Where(n => leaf.Any(l => l.Path == n)).Select(n => $"block {LayerSelection.BlockOf(adapter.Model, n)}")));
        }
        return table;
    }

    private static Spectre.Console.Table Losses(TrainProgress progress)
    {
        Spectre.Console.Table table = Format.Table(">c", ">separation loss", ">coherence loss", ">separation moved", ">degradation, nats", ">probability kept");
        foreach (var side in progress.LastEpoch.SelectMany(b => b.Rows).GroupBy(r => r.C))
            table.Row(Format.Coefficient(side.Key), Format.Number(side.Average(r => r.LossProj)), Format.Number(side.Average(r => r.LossCoherence)),
                Format.Signed(side.Average(r => r.ProjPi - r.ProjRef)), Format.Signed(side.Average(r => r.LogpDegradation), 3), Format.Number(side.Average(r => r.ProbRatio)));
        return table;
    }

    private static string Quote(string path) => path.Contains(' ', StringComparison.Ordinal) ? $"\"{path}\"" : path;
}
