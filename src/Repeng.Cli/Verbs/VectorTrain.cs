using System.CommandLine;
using System.Diagnostics;
using Repeng.Cli.Reports;
using Repeng.Kernels;
using Repeng.Runtime;
using Repeng.Runtime.Formats;
using Repeng.Steering.Adapters.Peft;
using Repeng.Steering.Losses;
using Repeng.Steering.Models;
using Repeng.Steering.Training;
using Repeng.Steering.Vectors;

namespace Repeng.Cli.Verbs;

/// <summary>vector train: a control vector from contrast pairs by one of the methods.</summary>
public sealed class VectorTrain
{
    private readonly TrainOptions _texts = new();
    private readonly Option<string?> _method = Opt.Text("--method", "NAME", $"how directions are made (default pca_diff): {string.Join(", ", VectorMethod.Known)}");
    private readonly Option<string?> _layers = Opt.Text("--layers", "REGEX", "modules to steer: searched in the dotted path (default: the outputs of blocks; of svd_weight the layers that write to them)", "--regex_filter");
    private readonly Option<string?> _range = Opt.Text("--layer_range", "LOW:HIGH", "blocks, half open: numbers, parts of the depth, negative from the end (default: 1:, all but the first; all of them with --layers)");
    private readonly Option<int?> _components = Opt.Int("--n_components", "components of pca_diff and pca_center (default 1); their sum is added");
    private readonly Option<int?> _position = Opt.Int("--token_position", "token that rows are taken at: -1 the last (default of methods on activations), -2 the one before it (default of methods on gradients)");
    private readonly Option<int?> _batch = Opt.Int("--batch_size", "rows a batch, two a pair: even (default 16)");
    private readonly Option<string?> _loss = Opt.Text("--loss", "NAME", $"loss that gradients are taken of (default {RepresentationSettings.DefaultLoss}): {string.Join(", ", SampledLosses.Names)}");
    private readonly Option<int?> _tap = Opt.Int("--tap_layer", "block whose output that loss reads (default: the third from the end)");
    private readonly Option<bool?> _batchMean = Opt.Flag("--batch_mean", "gradients of the batch's mean loss, as upstream: they, and with them Fisher's lambda, then depend on the batch size");
    private readonly Option<string?> _output = Opt.Text("--output", "FILE", "file to write (default: METHOD.gguf); of svd_weight a folder with a LoRA", "-o");
    private readonly Option<bool?> _overwrite = VectorVerb.Overwrite();
    private readonly Session _session;

    private VectorTrain(Session session) => _session = session;

    /// <summary>The verb.</summary>
    public static Command Create(Session session)
    {
        var verb = new VectorTrain(session);
        var command = new Command("train", "Make a control vector from pairs of texts with opposite personas");
        foreach (Option o in verb._texts.Texts.Concat(new Option[] { verb._method, verb._layers, verb._range, verb._components, verb._position, verb._batch, verb._loss, verb._tap, verb._batchMean, verb._output, verb._overwrite }))
            command.Options.Add(o);
        command.SetAction(verb.Run);
        return command;
    }

    private int Run(ParseResult p)
    {
        _texts.RefuseIdleTag(p);
        string methodName = p.GetValue(_method) ?? "pca_diff";
        int? rank = WeightSvdSteering.RankOf(methodName);
        VectorMethod? method = rank is null ? VectorMethod.Parse(methodName) : null;
        string output = method is null ? FreeFolder(p, methodName) : VectorVerb.Free(p.GetValue(_output) ?? $"{method.Name}.gguf", p.GetValue(_overwrite));
        (LayerSelection.End, LayerSelection.End)? range = Range(p.GetValue(_range));
        string name = p.GetValue(_texts.Model) ?? ModelBundle.Demo;
        HubModels.Ready(_session, name);
        RunSettings settings = _texts.Settings(p, name, TrainVerb.ReadConfig(name));
        // Beside the file that is written: a folder for temporary files may itself lie in memory.
        RepresentationSettings collect = Collecting(p) with { ScratchFolder = Folder(Path.GetFullPath(output)) };

        using Device device = _texts.Device.Open(p, _session);
        using ModelBundle bundle = ModelBundle.Load(device, name, settings.Storage, remark: _session.Say);
        string[] modules = LayerSelection.Modules(bundle.Model, p.GetValue(_layers) ?? (method is null ? WeightSvdSteering.DefaultLayers(bundle.Model) : null), range ?? (p.GetValue(_layers) is null && bundle.Model.Blocks.Count > 1 ? (new(1, false), new(bundle.Model.Blocks.Count, false)) : null));
        List<TokenPair> pairs = TrainRun.Pairs(bundle, settings);
        _session.Say($"model {name}: {bundle.Model.Config.ModelType}, {bundle.Model.Blocks.Count} blocks; {methodName} on {modules.Length} layers, {pairs.Count} pairs");
        var watch = Stopwatch.StartNew();
        var sinceLine = Stopwatch.StartNew();
        if (method is null)
        {
            using PeftAdapter lora = WeightSvdSteering.Train(bundle.Model, modules, pairs, bundle.PadId, rank!.Value, collect, name, Report);
            AtomicFile.WriteFolder(output, into => lora.Save(into, name), p.GetValue(_overwrite) == true);
            _session.Print($"{output}: {methodName}, a LoRA of rank {lora.Config.Rank} on {modules.Length} layers, {pairs.Count} pairs, {Format.Duration(watch.Elapsed.TotalSeconds)}");
            _session.Print($"Try:     {CliApp.Name} generate --model {name} --adapter {output} --coefficient -2 0 2 --prompt \"{ExamplePrompts.For(bundle)[0]}\"");
            return ExitCodes.Ok;
        }
        ControlVector vector = ControlVectorTrainer.Train(bundle.Model, modules, pairs, bundle.PadId, method, collect, p.GetValue(_components) ?? 1, Report);
        ControlVectorFile.Write(output, vector, keepComponents: vector.Directions.Values.Any(d => d.Components > 1));
        _session.Print($"{output}: {method.Name}, {vector.Layers.Count} layers, {pairs.Count} pairs, {Format.Duration(watch.Elapsed.TotalSeconds)}", VectorVerb.Table(vector));
        _session.Print($"Try:     {CliApp.Name} vector apply --model {name} --vector {output} --coefficient -2 0 2 --prompt \"{ExamplePrompts.For(bundle)[0]}\"");
        return ExitCodes.Ok;

        void Report(string what, int done, int of)
        {
            _session.Stop.ThrowIfCancellationRequested();
            if (sinceLine.Elapsed.TotalSeconds < 2 && done < of)
                return;
            sinceLine.Restart();
            _session.Say($"{what}: {done} of {of}, {Format.Duration(watch.Elapsed.TotalSeconds)}");
        }
    }

    // The folder that a file is in or, where that is still to be made, the one that it will be made in.
    private static string? Folder(string file)
    {
        string? folder = Path.GetDirectoryName(file);
        while (folder is not null && !Directory.Exists(folder))
            folder = Path.GetDirectoryName(folder);
        return folder;
    }

    // Such an edit depends on a layer's input: it is kept as a LoRA, in a folder.
    private string FreeFolder(ParseResult p, string method)
    {
        if (p.GetValue(_components) is not null)
            throw new UserErrorException($"--n_components belongs to pca_diff and pca_center; the rank of {WeightSvdSteering.Name} is a part of its name: {WeightSvdSteering.Name}_rank8");
        string output = Path.TrimEndingDirectorySeparator(p.GetValue(_output) ?? method);
        AtomicFile.RequireFolderFree(output, p.GetValue(_overwrite) == true);
        return output;
    }

    private RepresentationSettings Collecting(ParseResult p)
    {
        var settings = new RepresentationSettings();
        int? position = p.GetValue(_position);
        if (position is >= 0)
            throw new UserErrorException($"--token_position {position}: positions count from the end, -1 is the last token");
        string loss = p.GetValue(_loss) ?? RepresentationSettings.DefaultLoss;
        if (!SampledLosses.Names.Contains(loss))
            throw new UserErrorException($"--loss {loss} is not known; there are: {string.Join(", ", SampledLosses.Names)}");
        return settings with
        {
            TokenFromEnd = -position,
            BatchRows = p.GetValue(_batch) ?? settings.BatchRows,
            Loss = loss,
            TapBlock = p.GetValue(_tap),
            Reduction = p.GetValue(_batchMean) == true ? LossReduction.BatchMean : LossReduction.PerPair,
        };
    }

    private static (LayerSelection.End, LayerSelection.End)? Range(string? text)
    {
        if (text is null)
            return null;
        string[] ends = text.Split(':', ',');
        if (ends.Length != 2)
            throw new UserErrorException($"--layer_range {text}: write LOW:HIGH, such as 5:-2 or 0.3:0.9");
        return (ends[0].Length == 0 ? new(0, false) : LayerSelection.End.Parse(ends[0]), ends[1].Length == 0 ? new(1, true) : LayerSelection.End.Parse(ends[1]));
    }
}
