using Spectre.Console;

namespace Repeng.Cli;

/// <summary>
/// What a verb works with: its streams, whether a person watches them, and the wish to stop. Results go to
/// <see cref="Out"/>, progress and remarks to <see cref="Status"/>, so that a pipe carries results alone.
/// </summary>
public sealed class Session
{
    // Wide enough that no table is broken in a file or a pipe.
    private const int PlainWidth = 160;

    /// <summary>A session; interactive streams get colours and a live progress bar.</summary>
    public Session(TextReader input, TextWriter output, TextWriter status, bool outputIsTerminal = false, bool statusIsTerminal = false, CancellationToken stop = default, Func<int>? stopCode = null)
    {
        (Input, Output, StatusOutput, StatusIsTerminal, Stop) = (input, output, status, statusIsTerminal, stop);
        // Made when a table or a bar is drawn: most verbs print lines alone, and making the two takes longer than those.
        _out = new(() => MakeConsole(output, outputIsTerminal));
        _status = new(() => MakeConsole(status, statusIsTerminal));
        _stopCode = stopCode;
    }

    private readonly Func<int>? _stopCode;
    private readonly Lazy<IAnsiConsole> _out, _status;

    /// <summary>Standard input.</summary>
    public TextReader Input { get; }

    /// <summary>Standard output as it is.</summary>
    public TextWriter Output { get; }

    /// <summary>Standard error as it is.</summary>
    public TextWriter StatusOutput { get; }

    /// <summary>Results: tables and texts.</summary>
    public IAnsiConsole Out => _out.Value;

    /// <summary>Progress, remarks and errors.</summary>
    public IAnsiConsole Status => _status.Value;

    /// <summary>Whether progress may be redrawn in place.</summary>
    public bool StatusIsTerminal { get; }

    /// <summary>Set when the process was asked to end.</summary>
    public CancellationToken Stop { get; }

    /// <summary>Exit code of a verb that ended because of <see cref="Stop"/>.</summary>
    public int StopCode => _stopCode?.Invoke() ?? ExitCodes.Interrupted;

    /// <summary>One line of the results; never wrapped.</summary>
    public void Print(string line = "") => Output.WriteLine(line);

    /// <summary>A table of the results under its title.</summary>
    public void Print(string title, Table table)
    {
        Print(title);
        Out.Write(table);
    }

    /// <summary>One line for a person, apart from the results.</summary>
    public void Say(string line)
    {
        // A terminal may show a live bar, which Spectre has to step around; elsewhere nothing may wrap the line.
        if (StatusIsTerminal)
            Status.WriteLine(line);
        else
            StatusOutput.WriteLine(line);
    }

    private static IAnsiConsole MakeConsole(TextWriter writer, bool terminal)
    {
        IAnsiConsole console = AnsiConsole.Create(new AnsiConsoleSettings
        {
            Out = new AnsiConsoleOutput(writer),
            Ansi = terminal ? AnsiSupport.Detect : AnsiSupport.No,
            ColorSystem = terminal ? ColorSystemSupport.Detect : ColorSystemSupport.NoColors,
            Interactive = terminal ? InteractionSupport.Detect : InteractionSupport.No,
        });
        console.Profile.Capabilities.Unicode = true;
        if (!terminal)
            console.Profile.Width = PlainWidth;
        return console;
    }
}

/// <summary>What the program says to the one that started it.</summary>
public static class ExitCodes
{
    /// <summary>All went well.</summary>
    public const int Ok = 0;

    /// <summary>A file, model, text or value is wrong; one line says which.</summary>
    public const int UserError = 1;

    /// <summary>The command line cannot be read.</summary>
    public const int Usage = 2;

    /// <summary>A defect of the program; its stack trace is printed.</summary>
    public const int Defect = 70;

    /// <summary>Ended by SIGINT after a clean stop.</summary>
    public const int Interrupted = 130;

    /// <summary>Ended by SIGTERM after a clean stop.</summary>
    public const int Terminated = 143;

    /// <summary>For the help text.</summary>
    public const string Description =
        """
        Exit codes:
          0    done
          1    something given is wrong (model, file, text, value): one line says what, where and what to do
          2    the command line cannot be read
          70   a defect of this program: message and stack trace
          130  stopped by Ctrl-C (SIGINT), 143 by SIGTERM: training keeps a checkpoint, go on with train --resume FOLDER
        """;
}
