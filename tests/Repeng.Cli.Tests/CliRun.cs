using System.Text;
using System.Text.RegularExpressions;

namespace Repeng.Cli.Tests;

/// <summary>Outcome of a command line that ran in this process.</summary>
public sealed record CliResult(int Code, string Out, string Error)
{
    /// <summary>Lines of standard error.</summary>
    public string[] ErrorLines => Error.Split('\n', StringSplitOptions.RemoveEmptyEntries);
}

/// <summary>Runs command lines as the program does, with captured streams.</summary>
public static partial class CliRun
{
    /// <summary>Runs to the end.</summary>
    public static CliResult Run(params string[] args) => Run(args, "");

    /// <summary>Runs with a text on standard input.</summary>
    public static CliResult Run(string[] args, string input)
    {
        var (output, error) = (new StringWriter(), new StringWriter());
        int code = CliApp.Run(args, new Session(new StringReader(input), output, error));
        return new CliResult(code, output.ToString(), error.ToString());
    }

    /// <summary>Runs and asks for a stop as soon as the progress says that so many batches are done.</summary>
    public static CliResult RunUntilBatch(int batch, string[] args, int stopCode = ExitCodes.Interrupted)
    {
        using var stop = new CancellationTokenSource();
        var output = new StringWriter();
        var error = new WatchingWriter(line =>
        {
            if (BatchLine().Match(line) is { Success: true } m && int.Parse(m.Groups[1].Value) >= batch)
                stop.Cancel();
        });
        int code = CliApp.Run(args, new Session(TextReader.Null, output, error, stop: stop.Token, stopCode: () => stopCode));
        return new CliResult(code, output.ToString(), error.ToString());
    }

    [GeneratedRegex(@"batch (\d+)/")]
    private static partial Regex BatchLine();

    private sealed class WatchingWriter(Action<string> line) : StringWriter
    {
        public override Encoding Encoding => Encoding.UTF8;

        public override void WriteLine(string? value)
        {
            base.WriteLine(value);
            line(value ?? "");
        }
    }
}
