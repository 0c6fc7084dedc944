using System.CommandLine;
using System.CommandLine.Help;
using System.CommandLine.Invocation;
using Repeng.Cli.Verbs;
using Repeng.Kernels;

namespace Repeng.Cli;

/// <summary>The program without its process: command line and session in, exit code out.</summary>
public static class CliApp
{
    /// <summary>Name of the program.</summary>
    public const string Name = "repeng-native";

    /// <summary>Runs a command line. Whatever goes wrong ends as one of <see cref="ExitCodes"/>.</summary>
    public static int Run(IReadOnlyList<string> args, Session session)
    {
        try
        {
            RootCommand root = Build(session, args);
            if (args.Count == 0)
            {
                new Help(Name).Write(root, session.StatusOutput);
                return ExitCodes.Usage;
            }
            ParseResult parsed = Parse(root, args);
            if (Complaint(root, parsed, args) is { } complaint)
            {
                session.StatusOutput.WriteLine($"error: {complaint}");
                return ExitCodes.Usage;
            }
            return parsed.Invoke(new InvocationConfiguration
            {
                EnableDefaultExceptionHandler = false,
                ProcessTerminationTimeout = null,
                Output = session.Output,
                Error = session.StatusOutput,
            });
        }
        catch (Exception e)
        {
            int code = CodeOf(e, session);
            if (code == ExitCodes.Defect)
            {
                session.StatusOutput.WriteLine($"defect: {OneLine(e.Message)}; please report it with the lines below");
                session.StatusOutput.WriteLine(e);
            }
            else
                session.StatusOutput.WriteLine(e is StoppedException ? e.Message : e is OperationCanceledException ? "stopped; nothing was written" : $"error: {OneLine(e.Message)}");
            return code;
        }
    }

    /// <summary>The exit code that an exception ends the program with.</summary>
    public static int CodeOf(Exception error, Session session) => error switch
    {
        UsageException => ExitCodes.Usage,
        // No space left, a pipe that was closed, a folder without permission: the system's own words say which.
        UserErrorException or IOException or UnauthorizedAccessException => ExitCodes.UserError,
        OperationCanceledException when session.Stop.IsCancellationRequested => session.StopCode,
        _ => ExitCodes.Defect,
    };

    private static readonly (string Name, Func<Session, Command> Create)[] s_verbs =
    [
        ("train", TrainVerb.Create),
        ("generate", session => GenerateVerb.Create(session)),
        ("vector", VectorVerb.Create),
        ("eval", EvalVerb.Create),
        ("results", ResultsVerb.Create),
        ("convert-dilemmas", ConvertDilemmasVerb.Create),
        ("forward", ForwardVerb.Create),
        ("export", ExportVerb.Create),
        ("quantize", QuantizeVerb.Create),
        ("convert", ConvertVerb.Create),
        ("fetch", FetchVerb.Create),
        ("inspect", InspectVerb.Create),
        ("plan", PlanVerb.Create),
        ("doctor", DoctorVerb.Create),
        ("make-demo", MakeDemoVerb.Create),
        ("plot-losses", PlotLossesVerb.Create),
    ];

    /// <summary>Names of all verbs in the order of the help.</summary>
    public static IEnumerable<string> Verbs => s_verbs.Select(v => v.Name);

    /// <summary>
    /// The verbs that a command line can be about: the one that it begins with, since building one costs time at every start; all of
    /// them where it begins otherwise, so that help, completions and complaints have them all.
    /// </summary>
    /// <param name="args">Null builds all verbs.</param>
    public static RootCommand Build(Session session, IReadOnlyList<string>? args = null)
    {
        var root = new RootCommand("repeng-native: teaches language models to be steered, and steers them (SVD adapters, one coefficient a row)");
        // What stands before a verb is an option of the root, a directive ([suggest]) or a mistake.
        int named = args is [var first, ..] ? Array.FindIndex(s_verbs, v => v.Name == first) : -1;
        for (int i = 0; i < s_verbs.Length; i++)
        {
            if (named < 0 || i == named)
                root.Subcommands.Add(s_verbs[i].Create(session));
        }
        foreach (Option option in root.Options.Where(o => o is HelpOption))
            option.Action = new Help(Name);
        return root;
    }

    /// <summary>Parses in any spelling.</summary>
    public static ParseResult Parse(RootCommand root, IReadOnlyList<string> args) =>
        root.Parse(ArgumentNormaliser.Normalise(root, args), new ParserConfiguration { EnablePosixBundling = false, ResponseFileTokenReplacer = null });

    /// <summary>What is wrong with a command line, in one line; null when nothing is.</summary>
    public static string? Complaint(RootCommand root, ParseResult parsed, IReadOnlyList<string> args)
    {
        if (parsed.Action is Help)
            return null;
        Command command = parsed.CommandResult.Command;
        if (parsed.UnmatchedTokens.Count > 0)
        {
            string token = parsed.UnmatchedTokens[0];
            if (token.StartsWith('-'))
                return ArgumentNormaliser.UnknownOption(command, token);
            return command.Subcommands.Count > 0
                ? $"unknown verb '{token}'{(command == root ? "" : $" of {command.Name}")}{Meant(Nearest.To(token, command.Subcommands.Select(c => c.Name)))} (there are {string.Join(", ", command.Subcommands.Select(c => c.Name))})"
                : $"unexpected '{token}' after {command.Name}; texts with blanks need quotes";
        }
        if (command.Subcommands.Count > 0 && parsed.Action is null or ParseErrorAction)
            return $"no verb{(command == root ? "" : $" of {command.Name}")} is given; known: {string.Join(", ", command.Subcommands.Select(c => c.Name))}";
        return parsed.Errors.Count > 0 ? OneLine(parsed.Errors[0].Message) : null;

        static string Meant(string? near) => near is null ? "" : $", did you mean {near}?";
    }

    private static string OneLine(string message) => string.Join(' ', message.Split(['\r', '\n'], StringSplitOptions.RemoveEmptyEntries | StringSplitOptions.TrimEntries));
}
