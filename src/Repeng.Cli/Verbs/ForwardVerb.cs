using System.CommandLine;
using System.Text.RegularExpressions;
using Repeng.Kernels;
using Repeng.Runtime;
using Repeng.Runtime.Formats;
using Repeng.Steering.Adapters;
using Repeng.Steering.Models;

namespace Repeng.Cli.Verbs;

/// <summary>forward: writes what a model computes for some rows as tensors, to compare it with other software.</summary>
public sealed class ForwardVerb
{
    private readonly Option<string?> _model = Opt.Text("--model", "MODEL", "folder, .gguf file, repository of the hub (org/name) or demo (default: the adapter's base model, else demo)", "--model_name");
    private readonly Option<string?> _input = Opt.Text("--input", "FILE", "safetensors file with input_ids and attention_mask [batch, length], padded on the left");
    private readonly Option<string?> _text = Opt.Text("--text", "TEXT", "one text, with the special tokens that the tokenizer puts around it");
    private readonly Option<string?> _output = Opt.Text("--output", "FILE", "safetensors file to write");
    private readonly Option<bool?> _hidden = Opt.Flag("--hidden_states", "also hidden_states.0 (embeddings) to .N (after the final norm)");
    private readonly Option<string?> _modules = Opt.Text("--modules", "REGEX", "also the output of modules whose whole path matches");
    private readonly Option<bool?> _gradients = Opt.Flag("--gradients", "also grad.NAME of the loss for every parameter");
    private readonly Option<string[]?> _adapter = AdapterOptions.Adapters();
    private readonly Option<double[]?> _adapterWeights = AdapterOptions.Weights("with several --adapter: the factor of each one's coefficient (default 1 each)");
    private readonly Option<double?> _coefficient = Opt.Number("--coefficient", "steering coefficient (default 1 with an adapter)");
    private readonly WeightOptions _weights = new();
    private readonly DeviceOption _device = new();
    private readonly Session _session;

    private ForwardVerb(Session session) => _session = session;

    /// <summary>The verb.</summary>
    public static Command Create(Session session)
    {
        var verb = new ForwardVerb(session);
        var command = new Command("forward", "Write logits, hidden states, module outputs and gradients of a forward pass");
        foreach (Option o in new Option[] { verb._model, verb._input, verb._text, verb._output, verb._hidden, verb._modules, verb._gradients, verb._adapter, verb._adapterWeights, verb._coefficient }.Concat(verb._weights.All).Concat(verb._device.All))
            command.Options.Add(o);
        command.SetAction(verb.Run);
        return command;
    }

    private int Run(ParseResult p)
    {
        string output = p.GetValue(_output) ?? throw new UserErrorException("--output FILE is missing: where the tensors go");
        (string? input, string? text) = (p.GetValue(_input), p.GetValue(_text));
        (string[] folders, float[] weights) = AdapterOptions.Read(_session, p, _adapter, _adapterWeights);
        if (input is null == text is null)
            throw new UserErrorException("give either --input FILE or --text TEXT");
        if (folders.Length == 0 && p.GetValue(_coefficient) is not null)
            throw new UserErrorException("--coefficient without --adapter has nothing to steer with; give --adapter FOLDER");
        bool gradients = p.GetValue(_gradients) == true;
        string model = p.GetValue(_model) ?? (folders.Length == 0 ? null : AdapterFile.ReadBaseModel(folders[0])) ?? ModelBundle.Demo;
        Regex? modules = Modules(p.GetValue(_modules));

        HubModels.Ready(_session, model);
        using Device device = _device.Open(p, _session);
        (DecoderModel decoder, Func<string, int[]>? encode, IDisposable owner) = Load(device, model, text is not null, Storage(p, gradients), _session.Say);
        using (owner)
        {
            using IAdapter? adapter = folders.Length == 0 ? null : CombinedAdapter.Load(decoder, folders, weights);
            TokenBatch tokens = encode is null || text is null ? ForwardDump.ReadRows(input!) : TokenBatch.Pad([encode(text)], 0);
            SafetensorsWriter writer = ForwardDump.Run(decoder, tokens, new ForwardDumpSettings
            {
                HiddenStates = p.GetValue(_hidden) == true,
                Modules = modules,
                Gradients = gradients,
                Adapter = adapter,
                Coefficient = (float)(p.GetValue(_coefficient) ?? 1),
            });
            writer.Write(output);
            _session.Print($"{output}: {writer.Count} tensors of {tokens.Batch} rows of {tokens.Length} tokens");
        }
        return ExitCodes.Ok;
    }

    // Gradients of weights need them in fp32.
    private WeightStorage Storage(ParseResult p, bool gradients)
    {
        WeightStorage storage = _weights.Read(p);
        if (gradients && storage.Quantise is not null)
            throw new UserErrorException("--gradients beside --quantization_type: quantised weights have no gradients; leave one of them out");
        return gradients ? storage with { Type = WeightType.F32 } : storage;
    }

    // Rows that are token ids already need no tokenizer, and a folder may be without one.
    private static (DecoderModel, Func<string, int[]>?, IDisposable) Load(Device device, string model, bool needsTokenizer, WeightStorage weights, Action<string> say)
    {
        if (needsTokenizer)
        {
            ModelBundle bundle = ModelBundle.Load(device, model, weights, remark: say);
            return (bundle.Model, bundle.EncodeRaw, bundle);
        }
        (ModelConfig config, ITensorSource tensors, _) = ModelBundle.OpenConfig(model);
        using (tensors)
        {
            DecoderModel decoder = ModelLoader.Load(device, config, tensors, weights);
            return (decoder, null, decoder);
        }
    }

    private static Regex? Modules(string? pattern)
    {
        try
        {
            return pattern is null ? null : new Regex(pattern, RegexOptions.None, TimeSpan.FromSeconds(1));
        }
        catch (ArgumentException e)
        {
            throw new UserErrorException($"--modules '{pattern}' is no regular expression: {e.Message}", e);
        }
    }
}
