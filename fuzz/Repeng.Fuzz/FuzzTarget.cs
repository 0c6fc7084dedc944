using System.Diagnostics;
using Repeng.Kernels;

namespace Repeng.Fuzz;

/// <summary>A reader and what it is fed with.</summary>
/// <param name="Name">What the command line calls it.</param>
/// <param name="Seeds">Valid inputs; damage begins with these.</param>
/// <param name="Open">Prepares a folder and gives the run of one input: it writes the input where the reader looks, and reads.</param>
/// <param name="Words">Pieces that inputs are made of, for insertion.</param>
public sealed record FuzzTarget(string Name, Func<string, IReadOnlyList<byte[]>> Seeds, Func<string, Action<byte[]>> Open, IReadOnlyList<string> Words)
{
    /// <summary>Bytes that a reader may allocate beyond the size of its file.</summary>
    public const long MostBytes = 64L << 20;

    /// <summary>The longest that one input may take, of the clock and of the process's time on the CPU: it may be stopped, or the machine busy with other things.</summary>
    public static TimeSpan Longest { get; } = TimeSpan.FromSeconds(10);

    /// <summary>Runs one input. Accepting it is fine, and so is one line of a <see cref="UserErrorException"/> that names the place; anything else is the fault that is returned.</summary>
    public static string? Judge(Action<byte[]> run, byte[] input, string folder)
    {
        long before = GC.GetAllocatedBytesForCurrentThread();
        long start = Stopwatch.GetTimestamp();
        TimeSpan cpu = Environment.CpuUsage.TotalTime;
        string? fault = null;
        try
        {
            run(input);
        }
        catch (UserErrorException e)
        {
            if (e.Message.AsSpan().IndexOfAny('\n', '\r') >= 0)
                fault = $"the message has several lines: {e.Message}";
            else if (e.Message.Length < 12)
                fault = $"the message says too little: {e.Message}";
            else if (!e.Message.Contains(folder, StringComparison.Ordinal))
                fault = $"the message does not name the file: {e.Message}";
        }
        catch (Exception e)
        {
            fault = $"{e.GetType().Name}: {e}";
        }
        long allocated = GC.GetAllocatedBytesForCurrentThread() - before;
        if (allocated > input.Length + MostBytes)
            fault ??= $"{allocated} bytes allocated for an input of {input.Length}";
        TimeSpan took = Stopwatch.GetElapsedTime(start);
        return took > Longest && Environment.CpuUsage.TotalTime - cpu > Longest ? fault ?? $"took {took.TotalSeconds:F1} s" : fault;
    }
}
