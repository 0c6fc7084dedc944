using System.CommandLine;
using System.Diagnostics;
using Repeng.Cli.Reports;
using Repeng.Kernels;
using Repeng.Runtime.Formats;
using Repeng.Steering.Models;

namespace Repeng.Cli.Verbs;

/// <summary>convert: writes a model as one GGUF file, in any type that can be encoded.</summary>
public sealed class ConvertVerb
{
    private readonly Option<string?> _model = Opt.Text("--model", "MODEL", "model folder, .gguf file or repository of the hub (default: the built-in demo)", "--model_name");
    private readonly Option<string?> _type = TypeOption();
    private readonly Option<string?> _output = Opt.Text("--output", "FILE", "new .gguf file to write");
    private readonly Session _session;

    private ConvertVerb(Session session) => _session = session;

    /// <summary>The verb.</summary>
    public static Command Create(Session session)
    {
        var verb = new ConvertVerb(session);
        var command = new Command("convert", "Write a model as a GGUF file that llama.cpp and this program load");
        foreach (Option o in new Option[] { verb._model, verb._type, verb._output })
            command.Options.Add(o);
        command.SetAction(verb.Run);
        return command;
    }

    /// <summary>The option that names the type of matrices.</summary>
    internal static Option<string?> TypeOption() =>
        Opt.Text("--type", "TYPE", $"type of the matrices: {string.Join(", ", GgufModelWriter.Types)} (default: F16, or as stored where that is F32 or BF16; experts in MXFP4 keep their bits)");

    /// <summary>Refuses a path that is taken or is no .gguf file, before anything long begins.</summary>
    internal static void RequireNewFile(string path)
    {
        if (!path.EndsWith(".gguf", StringComparison.OrdinalIgnoreCase))
            throw new UserErrorException($"--output {path}: a GGUF file must end in .gguf");
        if (File.Exists(path) || Directory.Exists(path))
            throw new UserErrorException($"--output {path}: is there already; name another file, or remove it");
    }

    /// <summary>Writes weights with a model's configuration and tokenizer, with progress; gives the type of its matrices.</summary>
    internal static string Write(Session session, string output, ModelFiles files, ITensorSource weights, string? wanted, string name)
    {
        string type = Type(wanted, weights);
        GgufTokenizer? tokenizer = files.Tokenizer();
        if (tokenizer is null)
            session.Say($"{files.Path}: no tokenizer; llama.cpp will not load the file");
        var watch = Stopwatch.StartNew();
        double said = 0;
        GgufModelWriter.Write(output, files.Config, files.ConfigSource, weights, new GgufModelWriter.Options
        {
            Type = type,
            KeepMxfp4 = wanted is null,
            Name = Path.GetFileNameWithoutExtension(Path.TrimEndingDirectorySeparator(name)),
            Tokenizer = tokenizer,
            FromGguf = files.IsGguf,
            Warn = session.Say,
            Progress = (done, all) =>
            {
                session.Stop.ThrowIfCancellationRequested();
                if (watch.Elapsed.TotalSeconds - said < 2)
                    return;
                said = watch.Elapsed.TotalSeconds;
                session.Say($"{output}: {done} of {all} tensors");
            },
        });
        return wanted is null && weights.Names.Any(n => IsMxfp4(weights.Info(n))) ? $"{type}, experts {Mxfp4.Form} as stored" : type;
    }

    private int Run(ParseResult p)
    {
        string output = p.GetValue(_output) ?? throw new UserErrorException("--output FILE.gguf is missing: where the model goes");
        RequireNewFile(output);
        CheckType(p.GetValue(_type));
        string model = p.GetValue(_model) ?? ModelBundle.Demo;
        HubModels.Ready(_session, model);
        using ModelFiles files = ModelFiles.Open(model);
        string type = Write(_session, output, files, files.Tensors, p.GetValue(_type), model);
        _session.Print($"{output}: {model} as {type}, {Format.Bytes(new FileInfo(output).Length)}");
        return ExitCodes.Ok;
    }

    /// <summary>A type as it is written, null for none; refuses one that cannot be before a model is fetched or loaded.</summary>
    internal static string? CheckType(string? wanted) => wanted is null ? null
        : GgufModelWriter.Types.FirstOrDefault(t => t.Equals(wanted, StringComparison.OrdinalIgnoreCase))
            ?? throw new UserErrorException($"--type {wanted}: cannot be written; types that can: {string.Join(", ", GgufModelWriter.Types)}");

    private static string Type(string? wanted, ITensorSource weights)
    {
        if (CheckType(wanted) is { } named)
            return named;
        string[] stored = [.. weights.Names.Select(n => weights.Info(n)).Where(t => t.Shape.Length > 1 && !IsMxfp4(t)).Select(t => t.Type).Distinct()];
        return stored is ["F32"] or ["BF16"] ? stored[0] : "F16";
    }

    // Of a folder its blocks and scales, of a GGUF file the type itself.
    private static bool IsMxfp4(TensorInfo t) => t.Type == Mxfp4.Form || t.Type == "U8" && (t.Name.EndsWith(Mxfp4.Blocks, StringComparison.Ordinal) || t.Name.EndsWith(Mxfp4.Scales, StringComparison.Ordinal));
}
