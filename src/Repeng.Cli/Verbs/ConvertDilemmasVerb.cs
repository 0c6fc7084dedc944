using System.CommandLine;
using Repeng.Kernels;
using Repeng.Runtime.Formats;
using Repeng.Steering.Data;

namespace Repeng.Cli.Verbs;

/// <summary>convert-dilemmas: makes a dilemma file of the public Daily Dilemmas data set.</summary>
public sealed class ConvertDilemmasVerb
{
    // As many values as a person reads.
    private const int ShownValues = 12;

    private readonly Option<string?> _input = Opt.Text("--input", "FILE", "rows of Daily Dilemmas (dilemma_idx, action_type, dilemma_situation, action, values_aggregated) as .csv, or as JSON lines");
    private readonly Option<string?> _output = Opt.Text("--output", "FILE", "dilemma file to write, for eval --dilemmas");
    private readonly Option<string?> _first = Opt.Text("--first_value", "VALUE", "put the dilemmas that have this value first, for eval --max_questions");
    private readonly Session _session;

    private ConvertDilemmasVerb(Session session) => _session = session;

    /// <summary>The verb.</summary>
    public static Command Create(Session session)
    {
        var verb = new ConvertDilemmasVerb(session);
        var command = new Command("convert-dilemmas", "Make a dilemma file for eval of the public Daily Dilemmas data set");
        foreach (Option o in new Option[] { verb._input, verb._output, verb._first })
            command.Options.Add(o);
        command.SetAction(verb.Run);
        return command;
    }

    private int Run(ParseResult p)
    {
        string input = p.GetValue(_input) ?? throw new UserErrorException("--input FILE is missing: the rows of Daily Dilemmas");
        string output = p.GetValue(_output) ?? throw new UserErrorException("--output FILE is missing: where the dilemmas go");
        IReadOnlyList<Dilemma> dilemmas = DailyDilemmas.Load(input);
        IReadOnlyList<(string Value, int Count)> values = Dilemmas.Values(dilemmas);
        if (p.GetValue(_first)?.Trim().ToLowerInvariant() is { } first)
        {
            if (values.All(v => v.Value != first))
                throw new UserErrorException($"--first_value: no dilemma has the value '{first}'; there are {string.Join(", ", values.Take(ShownValues).Select(v => v.Value))}, …");
            // A stable sort: within each part the order of the file stays.
            dilemmas = [.. dilemmas.OrderBy(d => d.Label(first) == 0)];
        }
        AtomicFile.WriteText(output, Dilemmas.ToJsonLines(dilemmas));
        _session.Print($"{output}: {dilemmas.Count} rows; {values.Count} values: {string.Join(", ", values.Take(ShownValues).Select(v => $"{v.Value} ({v.Count})"))}{(values.Count > ShownValues ? ", …" : "")}");
        return ExitCodes.Ok;
    }
}
