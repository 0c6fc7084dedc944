using System.CommandLine;
using System.Diagnostics;
using Repeng.Cli.Reports;
using Repeng.Kernels;
using Repeng.Runtime.Formats;
using Repeng.Steering.Models;

namespace Repeng.Cli.Verbs;

/// <summary>quantize: writes a model as a bitsandbytes checkpoint that transformers loads.</summary>
public sealed class QuantizeVerb
{
    private readonly Option<string?> _model = Opt.Text("--model", "MODEL", "folder in the Hugging Face layout with plain weights, or a repository of the hub", "--model_name");
    private readonly Option<string?> _output = Opt.Text("--output", "FOLDER", "new folder to write");
    private readonly Option<string?> _type = WeightOptions.CreateQuantType("nf4, fp4 (4 bits) or int8 (8 bits, a scale a row) (default nf4)", "nf4", "fp4", "int8");
    private readonly Option<bool?> _doubleQuant = WeightOptions.CreateDoubleQuant("of nf4 and fp4: quantise the scales too (default no)");
    private readonly Option<int?> _blockSize = Opt.Int("--block_size", "of nf4 and fp4: values that share a scale (default 64)");
    private readonly Session _session;

    private QuantizeVerb(Session session) => _session = session;

    /// <summary>The verb.</summary>
    public static Command Create(Session session)
    {
        var verb = new QuantizeVerb(session);
        var command = new Command("quantize", "Write a model's linear weights in 4 or 8 bits, as transformers with bitsandbytes loads them");
        foreach (Option o in new Option[] { verb._model, verb._output, verb._type, verb._doubleQuant, verb._blockSize })
            command.Options.Add(o);
        command.SetAction(verb.Run);
        return command;
    }

    private int Run(ParseResult p)
    {
        string model = p.GetValue(_model) ?? throw new UserErrorException("--model FOLDER is missing: what to quantise");
        string output = Path.TrimEndingDirectorySeparator(p.GetValue(_output) ?? throw new UserErrorException("--output FOLDER is missing: where the files go"));
        AtomicFile.RequireFolderFree(output);
        var settings = new Quantisation(p.GetValue(_type) switch { "fp4" => QuantisedForm.Fp4, "int8" => QuantisedForm.Int8, _ => QuantisedForm.Nf4 }, p.GetValue(_doubleQuant) == true, p.GetValue(_blockSize) ?? Quantisation.DefaultBlockSize);
        if (settings.Form == QuantisedForm.Int8 && p.GetValue(_blockSize) is not null)
            throw new UserErrorException("--block_size belongs to nf4 and fp4; int8 has a scale a row");
        HubModels.Ready(_session, model);
        var watch = Stopwatch.StartNew();
        var sinceLine = Stopwatch.StartNew();
        QuantisedSizes sizes = QuantisedCheckpoint.Write(model, settings.Checked(), output, (done, all) =>
        {
            _session.Stop.ThrowIfCancellationRequested();
            if (sinceLine.Elapsed.TotalSeconds < 2)
                return;
            sinceLine.Restart();
            _session.Say($"{done} of {all} weights");
        });
        _session.Print($"{output}: {model} with {sizes.Weights} linear weights in {sizes.Form}, {Format.Number(sizes.BitsPerWeight, 3)} bits a weight; {Format.Bytes(sizes.BytesBefore)} of weights are {Format.Bytes(sizes.BytesAfter)} now ({Format.Duration(watch.Elapsed.TotalSeconds)})");
        if (sizes.Stacks > 0)
            _session.Print($"{sizes.Stacks} tensors that hold all experts of a block ({Format.Bytes(sizes.StackBytes)}) are as they were: transformers with bitsandbytes quantises linear layers, and reads no other form of these. --quantization_type quantises them when the model is loaded here");
        return ExitCodes.Ok;
    }
}
