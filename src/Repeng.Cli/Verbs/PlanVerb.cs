using System.CommandLine;
using Repeng.Cli.Reports;
using Repeng.Kernels.Cpu;
using Repeng.Runtime;
using Repeng.Steering.Models;
using Repeng.Steering.Training;
using Spectre.Console;

namespace Repeng.Cli.Verbs;

/// <summary>plan: what a training would need, with the options of train; writes nothing.</summary>
public sealed class PlanVerb
{
    private readonly TrainOptions _options = new();
    private readonly Session _session;

    private PlanVerb(Session session) => _session = session;

    /// <summary>The verb.</summary>
    public static Command Create(Session session)
    {
        var verb = new PlanVerb(session);
        var command = new Command("plan", "Predict memory and time of a training; takes the options of train");
        foreach (Option o in verb._options.All.Except([verb._options.Resume]))
            command.Options.Add(o);
        command.SetAction(verb.Run);
        return command;
    }

    private int Run(ParseResult p)
    {
        _options.RefuseMissing(p);
        string model = p.GetValue(_options.Model) ?? ModelBundle.Demo;
        HubModels.Ready(_session, model);
        RunSettings settings = _options.Settings(p, model, TrainVerb.ReadConfig(model));
        using Device device = _options.Device.Open(p, _session);
        RunPlan plan = RunPlan.Predict(settings);
        // What a run holds besides: runtime, compiled code, texts, tokenizer. They are here by now as they will be there.
        // A GPU's memory is apart from it.
        long program = device.Backend is CpuBackend ? Environment.WorkingSet : 0;
        DeviceRate rate = DeviceRate.Measure(device);
        double svd = plan.SvdSeconds(rate), training = plan.TrainingSeconds(rate);
        Table table = Format.Table("what", ">amount");
        table.Row("pairs for training, for validation", $"{plan.TrainPairs}, {plan.ValidationPairs}");
        table.Row("longest text, tokens", $"{plan.LongestText}");
        table.Row("batches", $"{plan.Batches} of {settings.Train.BatchSize} rows");
        table.Row("adapted layers, trained values", $"{plan.Layers}, {plan.Parameters}");
        table.Row("memory: weights", Format.Bytes(plan.WeightBytes));
        table.Row("memory: adapter and optimiser", Format.Bytes(plan.AdapterBytes));
        table.Row("memory: activations and gradients", Format.Bytes(plan.PeakBytes - plan.WeightBytes - plan.AdapterBytes));
        if (program > 0)
            table.Row("memory: the program", Format.Bytes(program));
        table.Row("memory: peak", Format.Bytes(plan.PeakBytes + program));
        table.Row("work", $"{Format.Number(plan.Work.Flops / 1e12, 3)} TFLOP of products, {Format.Bytes(plan.Work.OtherBytes)} moved by the rest");
        table.Row("measured here", $"{Format.Number(rate.FlopsPerSecond / 1e9, 1)} GFLOP/s, {Format.Number(rate.BytesPerSecond / 1e9, 1)} GB/s");
        table.Row("time: singular vectors, about", Format.Duration(svd));
        table.Row("time: training, about", Format.Duration(training));
        _session.Print($"Plan for {model}, profile {settings.Train.Profile}, {settings.Train.Adapter.TargetModules}, {(settings.Train.Peft is { } peft ? peft.Kind : $"rank {settings.Train.Adapter.Rank}")}", table);
        long available = GC.GetGCMemoryInfo().TotalAvailableMemoryBytes;
        if (plan.PeakBytes + program > available)
            _session.Say($"{Format.Bytes(plan.PeakBytes + program)} are more than the {Format.Bytes(available)} of this machine; take --micro_batch_size, --checkpoint_activations, a smaller --batch_size or --max_tokens");
        return ExitCodes.Ok;
    }
}
