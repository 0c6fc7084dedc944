using System.CommandLine;
using System.Globalization;
using Repeng.Cli.Reports;
using Repeng.Kernels;
using Repeng.Steering.Vectors;

namespace Repeng.Cli.Verbs;

/// <summary>vector: makes, shows, combines and converts control vectors.</summary>
public sealed class VectorVerb
{
    private readonly Session _session;

    private VectorVerb(Session session) => _session = session;

    /// <summary>The verb with its own verbs.</summary>
    public static Command Create(Session session)
    {
        var verb = new VectorVerb(session);
        var command = new Command("vector", "Make, show, combine and convert control vectors (GGUF files, as repeng and llama.cpp have them)");
        command.Subcommands.Add(VectorTrain.Create(session));
        command.Subcommands.Add(GenerateVerb.Create(session, "apply", "Continue a prompt, steered by a control vector (generate --vector)"));
        command.Subcommands.Add(verb.Show());
        command.Subcommands.Add(verb.Combine());
        command.Subcommands.Add(verb.Export());
        command.Subcommands.Add(verb.Import());
        return command;
    }

    private static Argument<string> File(string name, string description) => new(name) { Description = description };

    private static Option<string?> Output() => Opt.Text("--output", "FILE", "file to write (.gguf)", "-o");

    internal static Option<bool?> Overwrite() => Opt.Flag("--overwrite", "replace the file if it is there");

    private Command Show()
    {
        Argument<string> file = File("FILE", "a control vector (.gguf)");
        var command = new Command("show", "Layers, widths and lengths of a control vector, and how alike its layers are");
        command.Arguments.Add(file);
        command.SetAction(p =>
        {
            string path = p.GetValue(file)!;
            ControlVector vector = ControlVectorFile.Read(path, _session.Say);
            _session.Print($"{path}: {vector.ModelType}, {vector.Layers.Count} layers", Table(vector));
            if (Steering.Evaluation.Calibration.Describe(path) is { } calibrated)
                _session.Print(calibrated);
            return ExitCodes.Ok;
        });
        return command;
    }

    /// <summary>A row a layer: width, components, length, largest value and the cosine with the layer before.</summary>
    internal static Spectre.Console.Table Table(ControlVector vector)
    {
        Spectre.Console.Table table = Format.Table("layer", ">width", ">components", ">length", ">largest", ">cosine with the one before", "length, to scale");
        double longest = vector.Directions.Values.Max(d => Length(d.Sum()));
        float[]? before = null;
        foreach (string layer in vector.Layers)
        {
            Direction d = vector.Directions[layer];
            float[] sum = d.Sum();
            string cosine = before is not null && before.Length == sum.Length && Length(before) > 0 && Length(sum) > 0
                ? Format.Signed(sum.Zip(before, (a, b) => (double)a * b).Sum() / (Length(before) * Length(sum))) : "";
            table.Row(layer, $"{d.Width}", $"{d.Components}", Length(sum).ToString("G4", CultureInfo.InvariantCulture), sum.Max(Math.Abs).ToString("G3", CultureInfo.InvariantCulture), cosine,
                new string('█', longest > 0 ? (int)Math.Round(20 * Length(sum) / longest) : 0));
            before = sum;
        }
        return table;
    }

    private static double Length(float[] v) => Math.Sqrt(v.Sum(x => (double)x * x));

    private Command Combine()
    {
        var terms = new Argument<string[]>("TERM") { Description = "[FACTOR*]FILE, such as 0.5*a.gguf or -1*b.gguf; the sum is written", Arity = ArgumentArity.OneOrMore };
        Option<string?> output = Output();
        Option<bool?> overwrite = Overwrite();
        var command = new Command("combine", "Sum of control vectors, each times a factor; a layer that one lacks counts as zero there");
        command.Arguments.Add(terms);
        command.Options.Add(output);
        command.Options.Add(overwrite);
        command.SetAction(p =>
        {
            string to = Free(p.GetValue(output), p.GetValue(overwrite));
            ControlVector? sum = null;
            foreach (string term in p.GetValue(terms)!)
            {
                int star = term.IndexOf('*', StringComparison.Ordinal);
                float factor = 1;
                if (star >= 0 && !float.TryParse(term[..star], NumberStyles.Float, CultureInfo.InvariantCulture, out factor))
                    throw new UserErrorException($"'{term[..star]}' in {term} is no factor; write 0.5*FILE");
                ControlVector vector = ControlVectorFile.Read(term[(star + 1)..], _session.Say);
                if (star >= 0)
                    vector *= factor;
                if (sum is not null && !sum.IsOfSameFamily(vector))
                    _session.Say($"{term}: made for {vector.ModelType}, the ones before for {sum.ModelType}");
                sum = sum is null ? vector : sum + vector;
            }
            ControlVectorFile.Write(to, sum!);
            _session.Print($"{to}: {sum!.Layers.Count} layers", Table(sum));
            return ExitCodes.Ok;
        });
        return command;
    }

    private Command Export()
    {
        Argument<string> file = File("FILE", "a control vector (.gguf)");
        Option<string?> output = Output();
        Option<double?> factor = Opt.Number("--coefficient", "factor that the directions are multiplied by (default 1)");
        Option<bool?> overwrite = Overwrite(), drop = Opt.Flag("--drop_layer_0", "leave the first block's direction out, which llama.cpp refuses");
        var command = new Command("export", "Write a control vector as llama.cpp reads it (block k is direction.k, F32); what it cannot read is refused");
        command.Arguments.Add(file);
        foreach (Option o in new Option[] { output, overwrite, factor, drop })
            command.Options.Add(o);
        command.SetAction(p =>
        {
            string to = Free(p.GetValue(output), p.GetValue(overwrite));
            ControlVector vector = ControlVectorFile.Read(p.GetValue(file)!, _session.Say);
            if (p.GetValue(factor) is { } f)
                vector *= (float)f;
            if (p.GetValue(drop) == true)
                vector = new ControlVector(vector.ModelType, vector.Layers.Where(l => l != "0").Select(l => KeyValuePair.Create(l, vector.Directions[l])));
            ControlVectorFile.Write(to, vector, forLlamaCpp: true);
            _session.Print($"{to}: {vector.Layers.Count} layers; use it with llama-cli --control-vector {to}");
            return ExitCodes.Ok;
        });
        return command;
    }

    private Command Import()
    {
        Argument<string> file = File("FILE", "a control vector that repeng, the research branch or llama.cpp's tools wrote (.gguf)");
        Option<string?> output = Output(), model = Opt.Text("--model", "MODEL", "check that the vector fits this model, and write module paths of its blocks as numbers", "--model_name");
        DeviceOption device = new();
        Option<bool?> overwrite = Overwrite();
        var command = new Command("import", "Read a control vector of another tool, check it and write it as ours");
        command.Arguments.Add(file);
        foreach (Option o in new Option[] { output, overwrite, model }.Concat(device.All))
            command.Options.Add(o);
        command.SetAction(p =>
        {
            string to = Free(p.GetValue(output), p.GetValue(overwrite));
            ControlVector vector = ControlVectorFile.Read(p.GetValue(file)!, _session.Say);
            if (p.GetValue(model) is { } name)
            {
                HubModels.Ready(_session, name);
                using Runtime.Device d = device.Open(p, _session);
                using Steering.Models.ModelBundle bundle = Steering.Models.ModelBundle.Load(d, name);
                VectorControl.Resolve(bundle.Model, vector);
                if (vector.ModelType != bundle.Model.Config.ModelType)
                    _session.Say($"the vector says it is for {vector.ModelType}; {name} is {bundle.Model.Config.ModelType}");
                vector = new ControlVector(bundle.Model.Config.ModelType, vector.Layers.Select(l => KeyValuePair.Create(LayerSelection.LayerName(bundle.Model, l), vector.Directions[l])));
            }
            ControlVectorFile.Write(to, vector, keepComponents: vector.Directions.Values.Any(d => d.Components > 1));
            _session.Print($"{to}: {vector.Layers.Count} layers", Table(vector));
            return ExitCodes.Ok;
        });
        return command;
    }

    /// <summary>The file to write, which must not be there unless it is to be replaced.</summary>
    internal static string Free(string? output, bool? overwrite)
    {
        if (output is null)
            throw new UsageException("--output FILE is missing: the file to write");
        return System.IO.File.Exists(output) && overwrite != true
            ? throw new UserErrorException($"{output} is there already; give --overwrite, or another --output")
            : output;
    }
}
