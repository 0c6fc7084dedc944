using System.Diagnostics;
using System.Globalization;
using System.Text.Json;
using System.Text.Json.Nodes;
using Repeng.Bench.Training;
using Repeng.Kernels;

namespace Repeng.Bench.Llama;

/// <summary>llama.cpp in a process of its own: bench/peers/llama.mjs over the prebuilt binary of node-llama-cpp, installed on first use.</summary>
internal sealed class LlamaPeer : IDisposable
{
    private readonly Process _node;

    private LlamaPeer(Process node, string release, string system) => (_node, Release, System) = (node, release, system);

    /// <summary>Release of llama.cpp as the binary names it.</summary>
    public string Release { get; }

    /// <summary>Instruction sets that it says it uses.</summary>
    public string System { get; }

    /// <summary>Loads the model; installs the package beside the script first where it is missing.</summary>
    public static LlamaPeer Start(string model, int threads, int context)
    {
        string folder = Path.Combine(Machine.Repository(), "bench", "peers");
        if (!Directory.Exists(Path.Combine(folder, "node_modules", "node-llama-cpp")))
        {
            Console.Error.WriteLine("installing node-llama-cpp into bench/peers/node_modules (once; some 100 MB)");
            // Its own install script would look for a GPU and build; the prebuilt binary needs neither.
            using Process npm = Launch("npm", folder, ["install", "--ignore-scripts", "--no-package-lock", "--no-audit", "--no-fund"], redirectInput: false);
            string said = npm.StandardOutput.ReadToEnd();
            npm.WaitForExit();
            if (npm.ExitCode != 0)
                throw new UserErrorException($"npm install in {folder} failed ({npm.ExitCode}): {said.Trim()}; give --no-peer to run without llama.cpp");
        }
        Process node = Launch("node", folder, ["llama.mjs", Path.GetFullPath(model), threads.ToString(CultureInfo.InvariantCulture), context.ToString(CultureInfo.InvariantCulture)], redirectInput: true);
        JsonNode hello = Read(node);
        int got = hello["threads"]!.GetValue<int>();
        if (got != threads)
            throw new UserErrorException($"llama.cpp runs with {got} threads, not {threads}");
        return new LlamaPeer(node, hello["release"]!.GetValue<string>(), hello["system"]!.GetValue<string>().Trim());
    }

    /// <summary>Evaluates a prompt on an empty cache, then continues it greedily. Seconds by llama.cpp's own clock; the tokens that it chose, one more than asked for.</summary>
    public (double Prompt, double Decode, int[] Tokens) Run(int[] ids, int newTokens)
    {
        _node.StandardInput.WriteLine(JsonSerializer.Serialize(new Dictionary<string, object> { ["ids"] = ids, ["new"] = newTokens }));
        _node.StandardInput.Flush();
        JsonNode answer = Read(_node);
        return (answer["prompt"]!.GetValue<double>(), answer["decode"]!.GetValue<double>(), [.. answer["tokens"]!.AsArray().Select(t => t!.GetValue<int>())]);
    }

    public void Dispose()
    {
        _node.StandardInput.Close();
        if (!_node.WaitForExit(5000))
            _node.Kill(entireProcessTree: true);
        _node.Dispose();
    }

    private static Process Launch(string program, string folder, string[] arguments, bool redirectInput)
    {
        try
        {
            return Process.Start(new ProcessStartInfo(program, arguments) { WorkingDirectory = folder, RedirectStandardOutput = true, RedirectStandardInput = redirectInput })!;
        }
        catch (global::System.ComponentModel.Win32Exception e)
        {
            throw new UserErrorException($"{program} does not start ({e.Message}); the llama.cpp peer needs Node.js 20 or later on the path, or give --no-peer", e);
        }
    }

    private static JsonNode Read(Process node) => node.StandardOutput.ReadLine() is { } line
        ? JsonNode.Parse(line)!
        : throw new UserErrorException("the llama.cpp peer ended without an answer; its message stands above");
}
