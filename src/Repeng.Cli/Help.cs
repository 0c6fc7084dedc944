using System.CommandLine;
using System.CommandLine.Invocation;

namespace Repeng.Cli;

/// <summary>Prints what a command can do; both spellings of an option work, the one with underscores is shown.</summary>
public sealed class Help(string program) : SynchronousCommandLineAction
{
    private const int Column = 34, Width = 110;

    /// <inheritdoc/>
    public override int Invoke(ParseResult parseResult)
    {
        Write(parseResult.CommandResult.Command, parseResult.InvocationConfiguration.Output);
        return ExitCodes.Ok;
    }

    /// <summary>Writes the help of a command.</summary>
    public void Write(Command command, TextWriter to)
    {
        to.WriteLine(command.Description);
        to.WriteLine();
        bool group = command.Subcommands.Count > 0;
        string path = command is RootCommand ? program : $"{program} {Path(command)}";
        string arguments = string.Concat(command.Arguments.Select(a => $" {a.Name}"));
        to.WriteLine($"Usage: {path}{(group ? " VERB" : "")}{arguments} [options]");
        to.WriteLine();
        if (group)
        {
            to.WriteLine("Verbs:");
            foreach (Command verb in command.Subcommands)
                Row(to, verb.Name, verb.Description ?? "");
            to.WriteLine();
            to.WriteLine($"{path} VERB --help lists the options of a verb.");
        }
        if (command.Arguments.Count > 0)
        {
            to.WriteLine("Arguments:");
            foreach (Argument a in command.Arguments)
                Row(to, a.Name, a.Description ?? "");
            to.WriteLine();
        }
        to.WriteLine(group ? "\nOptions:" : "Options (--like_this or --like-this):");
        foreach (Option option in command.Options.Where(o => !o.Hidden))
            Row(to, Names(option), option.Description ?? "");
        to.WriteLine();
        to.WriteLine(ExitCodes.Description);
    }

    // vector train, not train.
    private static string Path(Command command) => command.Parents.OfType<Command>().FirstOrDefault(p => p is not RootCommand) is { } parent ? $"{Path(parent)} {command.Name}" : command.Name;

    private static string Names(Option option)
    {
        if (option.ValueType == typeof(bool?))
            return $"{option.Name}, --no-{option.Name[2..]}";
        string names = string.Join(", ", option.Aliases.Where(a => a != "/?" && a != "/h" && a != "-?").Append(option.Name).OrderBy(n => n.Length));
        return option.HelpName is null ? names : $"{names} {option.HelpName}";
    }

    private static void Row(TextWriter to, string left, string right)
    {
        string line = "  " + left;
        if (line.Length >= Column)
        {
            to.WriteLine(line);
            line = "";
        }
        line = line.PadRight(Column);
        foreach (string word in right.Split(' '))
        {
            if (line.Length + word.Length + 1 > Width && line.Trim().Length > 0)
            {
                to.WriteLine(line.TrimEnd());
                line = new string(' ', Column);
            }
            line += word + " ";
        }
        to.WriteLine(line.TrimEnd());
    }
}
