using System.CommandLine;
using System.Globalization;
using System.Text;
using System.Text.Json;
using System.Text.Json.Nodes;
using System.Text.Json.Serialization.Metadata;
using Repeng.Cli.Reports;
using Repeng.Kernels;
using Repeng.Runtime;
using Repeng.Runtime.Formats;
using Repeng.Steering;
using Repeng.Steering.Demo;
using Repeng.Steering.Evaluation;
using Repeng.Steering.Models;
using Spectre.Console;

namespace Repeng.Cli.Verbs;

/// <summary>make-demo: trains the demo model from scratch and writes its folder.</summary>
public sealed class MakeDemoVerb
{
    private const string CorpusPrefix = "corpus_";
    private static readonly JsonSerializerOptions s_indented = new() { WriteIndented = true };

    private readonly Argument<string> _out = new("OUT") { Description = "folder to make" };
    private readonly Option<bool?> _force = Opt.Flag("--force", "replace the folder if it exists");
    private readonly Option<int?> _threads = DeviceOption.CreateThreads();
    private readonly Option<int?> _reportEvery = Opt.Int("--report_every", "steps between progress lines (default 50)");
    private readonly List<(Option<double?> Option, JsonPropertyInfo Field, bool Corpus)> _fields = [];
    private readonly Session _session;

    private MakeDemoVerb(Session session)
    {
        _session = session;
        AddFields(DemoModelJson.Default.DemoModelRecipe, new DemoModelRecipe(), corpus: false);
        AddFields(DemoModelJson.Default.DemoCorpusOptions, new DemoModelRecipe().Corpus, corpus: true);
    }

    /// <summary>The verb.</summary>
    public static Command Create(Session session)
    {
        var verb = new MakeDemoVerb(session);
        var command = new Command("make-demo", "Train the demo model from scratch on the text of its grammar, and write it") { verb._out, verb._force, verb._threads, verb._reportEvery };
        foreach ((Option<double?> option, _, _) in verb._fields)
            command.Options.Add(option);
        command.SetAction(verb.Run);
        return command;
    }

    private int Run(ParseResult p)
    {
        string folder = p.GetValue(_out)!;
        bool force = p.GetValue(_force) == true;
        DemoModelRecipe recipe = Recipe(p);
        AtomicFile.RequireFolderFree(folder, force);
        using Device device = DeviceOption.OpenCpu(p.GetValue(_threads), _session);
        var world = new DemoWorld();
        double loss = 0;
        using (DecoderModel model = DemoModelTrainer.Train(device, world, recipe, t =>
        {
            loss = t.Loss;
            _session.Say($"step {t.Step}/{recipe.Steps}  loss {Format.Number(t.Loss, 4)}  {t.Tokens} tokens  {Format.Duration(t.Seconds)}  {Format.Duration(t.Seconds / t.Step * (recipe.Steps - t.Step))} left");
        }, p.GetValue(_reportEvery) ?? 50, _session.Stop))
            AtomicFile.WriteFolder(folder, f => Write(f, model, recipe), force);

        // What is written is what is measured: weights rounded to bf16 and read back.
        using ModelBundle made = ModelBundle.Load(device, folder, WeightType.F32);
        (string text, Table table) = Measure(made, world);
        AtomicFile.WriteText(Path.Combine(folder, "README.md"), Readme(recipe, made.Model, loss, text));
        _session.Print($"Demo model: {folder}, {made.Model.Parameters.Values.Sum(t => t.Length)} parameters, last loss {Format.Number(loss, 4)}", table);
        return ExitCodes.Ok;
    }

    private void AddFields(JsonTypeInfo type, object defaults, bool corpus)
    {
        foreach (JsonPropertyInfo field in type.Properties.Where(f => f.Get is not null && (f.PropertyType == typeof(int) || f.PropertyType == typeof(ulong) || f.PropertyType == typeof(float) || f.PropertyType == typeof(double))))
        {
            string name = string.Concat(field.Name.Select((ch, i) => char.IsUpper(ch) && i > 0 ? $"_{char.ToLowerInvariant(ch)}" : $"{char.ToLowerInvariant(ch)}"));
            string value = Text(field.Get!(defaults));
            _fields.Add((Opt.Number($"--{(corpus ? CorpusPrefix : "")}{name}", $"{(corpus ? "text" : "model and training")}: {name.Replace('_', ' ')} (default {value})"), field, corpus));
        }
    }

    private DemoModelRecipe Recipe(ParseResult p)
    {
        // Every field stands in the JSON of the defaults, and the record is made anew from it.
        JsonObject json = JsonSerializer.SerializeToNode(new DemoModelRecipe(), DemoModelJson.Default.DemoModelRecipe)!.AsObject();
        foreach ((Option<double?> option, JsonPropertyInfo field, bool ofCorpus) in _fields)
            if (p.GetValue(option) is { } value)
            {
                bool whole = field.PropertyType != typeof(double) && field.PropertyType != typeof(float);
                if (whole && (value != Math.Truncate(value) || value < 0 || value > int.MaxValue))
                    throw new UserErrorException($"{option.Name} {value} must be a whole number from 0 to {int.MaxValue}");
                (ofCorpus ? json[nameof(DemoModelRecipe.Corpus)]! : json)[field.Name] = whole ? (long)value : value;
            }
        DemoModelRecipe recipe = json.Deserialize(DemoModelJson.Default.DemoModelRecipe)!;
        if (recipe.Steps < 1 || recipe.Batch < 1)
            throw new UserErrorException($"--steps {recipe.Steps} and --batch {recipe.Batch} must be at least 1");
        return recipe;
    }

    private static string Text(object? value) => Convert.ToString(value, CultureInfo.InvariantCulture)!;

    private static void Write(string folder, DecoderModel model, DemoModelRecipe recipe)
    {
        JsonObject config = recipe.Config();
        config["torch_dtype"] = "bfloat16";
        File.WriteAllText(Path.Combine(folder, "config.json"), config.ToJsonString(s_indented) + "\n");
        DemoTokenizerFiles.Write(folder);
        var writer = new SafetensorsWriter();
        foreach ((string name, Tensor t) in model.Parameters)
            writer.AddRaw(name, "BF16", [.. t.Shape.Select(s => (long)s)], ToBf16(t.ToArray()));
        writer.Write(Path.Combine(folder, "model.safetensors"));
    }

    // To the nearest, ties to even; the trainer's weights are finite.
    private static byte[] ToBf16(float[] values)
    {
        var bytes = new byte[values.Length * 2];
        for (int i = 0; i < values.Length; i++)
        {
            uint bits = BitConverter.SingleToUInt32Bits(values[i]);
            ushort rounded = (ushort)((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16);
            (bytes[2 * i], bytes[2 * i + 1]) = ((byte)rounded, (byte)(rounded >> 8));
        }
        return bytes;
    }

    private (string Markdown, Table Table) Measure(ModelBundle made, DemoWorld world)
    {
        var evaluator = new TruthEvaluator(made.Model);
        Table table = Format.Table("prompt", ">p(true)", ">log-odds, nats", ">choice mass", ">questions");
        var text = new StringBuilder("| prompt | p(true) | log-odds, nats | choice mass | questions |\n|---|---|---|---|---|\n");
        foreach (DemoAudience audience in Enum.GetValues<DemoAudience>())
        {
            _session.Stop.ThrowIfCancellationRequested();
            ChoiceResult[] r = evaluator.Run(DemoItems.Load(world, audience), Steering.Generation.Steering.None, 0);
            string[] cells = [TruthReport.Title(audience), Format.Number(r.Average(x => x.Mass / (1 + Math.Exp(-x.LogOdds)))), Estimate.Of([.. r.Select(x => x.LogOdds)]).ToString(), Format.Number(r.Average(x => x.Mass)), $"{r.Length}"];
            table.Row(cells);
            text.Append(CultureInfo.InvariantCulture, $"| {string.Join(" | ", cells)} |\n");
        }
        return (text.ToString(), table);
    }

    private string Readme(DemoModelRecipe recipe, DecoderModel model, double loss, string table)
    {
        DemoModelRecipe standard = new();
        IEnumerable<string> changed = _fields.Select(f => (f.Option.Name, Value: f.Field.Get!(f.Corpus ? recipe.Corpus : recipe), Default: f.Field.Get!(f.Corpus ? standard.Corpus : standard)))
            .Where(f => !Equals(f.Value, f.Default)).Select(f => $" {f.Name} {Text(f.Value)}");
        return $"""
            # The demo model

            A language model of {model.Parameters.Values.Sum(t => t.Length)} parameters in the shape of Qwen3, trained from scratch by this project
            on text that its own grammar generates: a closed world of things and facts in plain English, told by speakers
            whose persona makes what they say true or not. It is made by

            ```
            {CliApp.Name} make-demo models/demo{string.Concat(changed)}
            ```

            which gives the same bytes again on the same kind of machine, at any number of threads. Weights are bf16.
            The last loss was {Format.Number(loss, 4)}. The fingerprint is {model.Fingerprint}.

            How likely the true value of a thing's property is as the next token, after these prompts:

            {table.TrimEnd()}

            The recipe:

            ```json
            {JsonSerializer.Serialize(recipe, DemoModelJson.Default.DemoModelRecipe)}
            ```

            """;
    }
}
