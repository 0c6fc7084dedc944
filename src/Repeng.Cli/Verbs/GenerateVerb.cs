using System.CommandLine;
using System.Text;
using System.Text.Encodings.Web;
using System.Text.Json;
using System.Text.Json.Nodes;
using Repeng.Cli.Reports;
using Repeng.Kernels;
using Repeng.Runtime;
using Repeng.Runtime.Chat;
using Repeng.Runtime.Tokenizers;
using Repeng.Steering.Adapters;
using Repeng.Steering.Generation;
using Repeng.Steering.Models;
using Repeng.Steering.Vectors;

namespace Repeng.Cli.Verbs;

/// <summary>generate: continues a prompt, steered by an adapter at one or several coefficients.</summary>
public sealed class GenerateVerb
{
    private static readonly JsonSerializerOptions s_json = new() { WriteIndented = true, Encoder = JavaScriptEncoder.UnsafeRelaxedJsonEscaping };

    private readonly Option<string?> _model = Opt.Text("--model", "MODEL", "folder, .gguf file, repository of the hub (org/name) or demo (default: the adapter's base model, else demo)", "--model_name");
    private readonly Option<string[]?> _adapter = AdapterOptions.Adapters();
    private readonly Option<double[]?> _adapterWeights = AdapterOptions.Weights("with several --adapter: the factor of each one's coefficient (default 1 each)");
    private readonly Option<string?> _vector = Opt.Text("--vector", "FILE", "control vector (.gguf)", "--control_vector");
    private readonly Option<bool?> _normalize = Opt.Flag("--normalize", "give each steered output the length back that it had before the vector was added");
    private readonly Option<double[]?> _coefficients = Opt.Numbers("--coefficient", "steering coefficient; several are generated in one batch and shown side by side (default 1 with an adapter or a vector, else 0)");
    private readonly Option<string?> _prompt = Opt.Text("--prompt", "TEXT", "what the user says (default: standard input)");
    private readonly Option<string?> _system = Opt.Text("--system", "TEXT", "system message of the chat");
    private readonly Option<bool?> _raw = Opt.Flag("--raw", "continue the prompt as plain text, without chat template");
    private readonly Option<bool?> _enableThinking = Thinking.Enable();
    private readonly Option<int?> _maxNew = Opt.Int("--max_new_tokens", "new tokens at most (default 128)");
    private readonly Option<bool?> _sample = Opt.Flag("--do_sample", "draw at random (default: greedy, unless a sampling value is given)");
    private readonly Option<double?> _temperature = Opt.Number("--temperature", "scores are divided by it (default 1)");
    private readonly Option<int?> _topK = Opt.Int("--top_k", "keep the k most likely tokens; 0 for all (default 0)");
    private readonly Option<double?> _topP = Opt.Number("--top_p", "keep the most likely tokens up to this probability (default 1)");
    private readonly Option<double?> _minP = Opt.Number("--min_p", "keep tokens with at least this part of the largest probability (default 0)");
    private readonly Option<double?> _penalty = Opt.Number("--repetition_penalty", "makes tokens that were there less likely (default 1: off)");
    private readonly Option<ulong?> _seed = Opt.Seed("--seed", "key of the random draws (default 42)");
    private readonly Option<bool?> _json = Opt.Flag("--json", "print one JSON object");
    private readonly WeightOptions _weights = new();
    private readonly DeviceOption _device = new();
    private readonly Session _session;

    private GenerateVerb(Session session) => _session = session;

    /// <summary>The verb.</summary>
    public static Command Create(Session session, string name = "generate", string description = "Continue a prompt, steered by an adapter or a control vector at one or several coefficients")
    {
        var verb = new GenerateVerb(session);
        var command = new Command(name, description);
        foreach (Option o in new Option[] { verb._model, verb._adapter, verb._adapterWeights, verb._vector, verb._normalize, verb._coefficients, verb._prompt, verb._system, verb._raw, verb._enableThinking, verb._maxNew, verb._sample, verb._temperature, verb._topK, verb._topP, verb._minP, verb._penalty, verb._seed, verb._json }.Concat(verb._weights.All).Concat(verb._device.All))
            command.Options.Add(o);
        command.SetAction(verb.Run);
        return command;
    }

    private int Run(ParseResult p)
    {
        (string[] folders, float[] weights) = AdapterOptions.Read(_session, p, _adapter, _adapterWeights);
        string? adapterFolder = folders.Length == 0 ? null : string.Join(", ", folders);
        string? vectorFile = p.GetValue(_vector);
        if (p.GetValue(_normalize) is not null && vectorFile is null)
            throw new UserErrorException("--normalize without --vector has nothing to act on; give --vector FILE");
        float[] coefficients = Coefficients(p, adapterFolder ?? vectorFile);
        SamplingSettings sampling = Sampling(p);
        int maxNew = p.GetValue(_maxNew) ?? 128;
        if (maxNew < 1)
            throw new UserErrorException($"--max_new_tokens {maxNew} must be at least 1");
        bool raw = p.GetValue(_raw) == true;
        if (raw && p.GetValue(_system) is not null)
            throw new UserErrorException("--system beside --raw: plain text has no system message; leave one out");
        if (raw && p.GetValue(_enableThinking) is not null)
            throw new UserErrorException("--enable_thinking beside --raw: plain text has no chat template to switch; leave one out");
        string model = p.GetValue(_model) ?? (folders.Length == 0 ? null : AdapterFile.ReadBaseModel(folders[0])) ?? ModelBundle.Demo;
        string prompt = p.GetValue(_prompt) ?? ReadPrompt();
        if (prompt.Length == 0)
            throw new UserErrorException("the prompt is empty; give --prompt TEXT or a text on standard input");

        HubModels.Ready(_session, model);
        using Device device = _device.Open(p, _session);
        using ModelBundle bundle = ModelBundle.Load(device, model, _weights.Read(p), remark: _session.Say);
        bundle.EnableThinking = p.GetValue(_enableThinking);
        using IAdapter? adapter = folders.Length == 0 ? null : CombinedAdapter.Load(bundle.Model, folders, weights);
        int[] ids = raw ? bundle.EncodeRaw(prompt) : bundle.EncodeChat([.. p.GetValue(_system) is { } system ? new[] { new ChatMessage("system", system) } : [], new ChatMessage("user", prompt)]);
        int room = bundle.Model.Config.MaxPositions - ids.Length;
        if (room >= 1 && room < maxNew)
            _session.Say($"max_new_tokens {maxNew} is cut to {room}: the prompt has {ids.Length} tokens and the context holds {bundle.Model.Config.MaxPositions}");
        _session.Say($"model {model}{(adapterFolder is null ? "" : $", adapter {adapterFolder}{(folders.Length > 1 ? $" (weights {string.Join(", ", weights.Select(w => Format.Coefficient(w)))})" : "")}")}{(vectorFile is null ? "" : $", vector {vectorFile}")}, prompt {ids.Length} tokens, {(raw ? "raw" : "chat")}, max_new_tokens {maxNew}");
        foreach (string source in folders.Append(vectorFile).OfType<string>())
            if (Steering.Evaluation.Calibration.Describe(source) is { } calibrated)
                _session.Say($"{source}: {calibrated}");
        _session.Say(Describe(sampling));
        using VectorControl? vector = vectorFile is null ? null : new VectorControl(bundle.Model, ControlVectorFile.ReadFor(bundle.Model, vectorFile, _session.Say), p.GetValue(_normalize) == true);
        var steering = new Steering.Generation.Steering(adapter, vector);
        if (p.GetValue(_json) == true)
            WriteJson(SteeredTexts.Generate(bundle, steering, ids, coefficients, sampling, maxNew, null, _session.Stop), model, adapterFolder, prompt, sampling);
        else if (coefficients.Length == 1)
            Stream(bundle, steering, ids, coefficients, sampling, maxNew);
        else
            _session.Out.Write(SteeredTexts.SideBySide(SteeredTexts.Generate(bundle, steering, ids, coefficients, sampling, maxNew, null, _session.Stop)));
        return _session.Stop.IsCancellationRequested ? _session.StopCode : ExitCodes.Ok;
    }

    private float[] Coefficients(ParseResult p, string? adapter)
    {
        double[] given = p.Given(_coefficients) ?? [adapter is null ? 0 : 1];
        if (adapter is null && given.Any(c => c != 0))
            throw new UserErrorException($"--coefficient {Format.Coefficient(given.First(c => c != 0))} without --adapter or --vector has nothing to steer with; give --adapter FOLDER or --vector FILE");
        return [.. given.Select(c => (float)c)];
    }

    private SamplingSettings Sampling(ParseResult p)
    {
        // A sampling value asks for sampling; only --no-do_sample overrules it.
        bool asked = p.GetValue(_temperature) is not null || p.GetValue(_topK) is not null || p.GetValue(_topP) is not null || p.GetValue(_minP) is not null;
        var settings = new SamplingSettings
        {
            Sample = p.GetValue(_sample) ?? asked,
            Temperature = (float)(p.GetValue(_temperature) ?? 1),
            TopK = p.GetValue(_topK) ?? 0,
            TopP = (float)(p.GetValue(_topP) ?? 1),
            MinP = (float)(p.GetValue(_minP) ?? 0),
            RepetitionPenalty = (float)(p.GetValue(_penalty) ?? 1),
            Seed = p.GetValue(_seed) ?? 42,
        };
        settings.Validate();
        return settings;
    }

    private static string Describe(SamplingSettings s) => s.Sample
        ? FormattableString.Invariant($"do_sample true, temperature {s.Temperature}, top_k {s.TopK}, top_p {s.TopP}, min_p {s.MinP}, repetition_penalty {s.RepetitionPenalty}, seed {s.Seed}")
        : FormattableString.Invariant($"do_sample false (greedy), repetition_penalty {s.RepetitionPenalty}");

    private string ReadPrompt()
    {
        if (_session.Input == Console.In && !Console.IsInputRedirected)
            throw new UserErrorException("no --prompt is given and standard input is a terminal; give --prompt TEXT or pipe a text in");
        try
        {
            return _session.Input.ReadToEnd().TrimEnd('\n', '\r');
        }
        catch (DecoderFallbackException e)
        {
            throw new UserErrorException($"standard input is not UTF-8 (bytes {Convert.ToHexString(e.BytesUnknown ?? [])}); convert it, for example with iconv -t UTF-8, or give --prompt TEXT", e);
        }
    }

    private void Stream(ModelBundle bundle, Steering.Generation.Steering steering, int[] ids, float[] coefficients, SamplingSettings sampling, int maxNew)
    {
        _session.Say($"c = {Format.Coefficient(coefficients[0])}");
        DecodeStream stream = bundle.Tokenizer.CreateStream(skipSpecialTokens: true);
        SteeredTexts.Generate(bundle, steering, ids, coefficients, sampling, maxNew, (_, id) =>
        {
            string piece = stream.Add(id);
            if (piece.Length == 0)
                return;
            _session.Output.Write(piece);
            _session.Output.Flush();
        }, _session.Stop);
        _session.Output.WriteLine(stream.Flush());
    }

    private void WriteJson(SteeredText[] texts, string model, string? adapter, string prompt, SamplingSettings s)
    {
        var json = new JsonObject
        {
            ["model"] = model,
            ["adapter"] = adapter,
            ["prompt"] = prompt,
            ["sampling"] = new JsonObject
            {
                ["do_sample"] = s.Sample,
                ["temperature"] = s.Temperature,
                ["top_k"] = s.TopK,
                ["top_p"] = s.TopP,
                ["min_p"] = s.MinP,
                ["repetition_penalty"] = s.RepetitionPenalty,
                ["seed"] = s.Seed,
            },
            ["results"] = new JsonArray([.. texts.Select(t => (JsonNode)new JsonObject
            {
                ["coefficient"] = t.Coefficient, ["text"] = t.Text, ["tokens"] = t.Tokens, ["finish_reason"] = t.Ended ? "stop" : "length",
            })]),
        };
        _session.Output.WriteLine(json.ToJsonString(s_json));
    }
}
