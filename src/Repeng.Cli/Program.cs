using System.Runtime.CompilerServices;
using System.Runtime.InteropServices;
using System.Text;
using Repeng.Cli;

// Ahead of everything that has to be compiled.
if (RuntimeFeature.IsDynamicCodeSupported)
    StartProfile.Begin(Path.Combine(ProgramParts.Cache, "start"), args);
Console.OutputEncoding = new UTF8Encoding(false);
using var stop = new CancellationTokenSource();
int stopCode = ExitCodes.Interrupted;
// The first signal asks for a clean stop; the second does not wait for it.
void Ask(PosixSignalContext context, int code)
{
    if (stop.IsCancellationRequested)
        return;
    context.Cancel = true;
    stopCode = code;
    stop.Cancel();
}

using var interrupt = PosixSignalRegistration.Create(PosixSignal.SIGINT, c => Ask(c, ExitCodes.Interrupted));
using var terminate = PosixSignalRegistration.Create(PosixSignal.SIGTERM, c => Ask(c, ExitCodes.Terminated));
bool colours = string.IsNullOrEmpty(Environment.GetEnvironmentVariable("NO_COLOR"));
// The console's own reader would put a mark for every byte that is no UTF-8, and nobody would know.
TextReader input = Console.IsInputRedirected ? new StreamReader(Console.OpenStandardInput(), new UTF8Encoding(false, throwOnInvalidBytes: true)) : Console.In;
var session = new Session(input, Console.Out, Console.Error,
    outputIsTerminal: !Console.IsOutputRedirected && colours, statusIsTerminal: !Console.IsErrorRedirected && colours, stop.Token, () => stopCode);
if (!RuntimeFeature.IsDynamicCodeSupported && Environment.ProcessPath is { } program)
    ProgramParts.Use(program);
return CliApp.Run(args, session);
