using System.Globalization;
using Repeng.Kernels;

namespace Repeng.Bench.Training;

/// <summary>Options of the training benchmark.</summary>
internal sealed record TrainBenchOptions
{
    public const string ModelFolder = "../shared/models/smollm2-135m-instruct";

    /// <summary>The real model beside the repository, or null where it is not there.</summary>
    public static string? DefaultModel => Directory.Exists(ModelFolder) ? Directory.EnumerateFiles(ModelFolder, "*.gguf").Order(StringComparer.Ordinal).FirstOrDefault() : null;

    public string Engine { get; private set; } = "both";

    public string Model { get; private set; } = "";

    /// <summary>How our weights are held: f32, bf16 (random weights only), stored (as the file has them) or nf4 (random weights only).</summary>
    public string Weights { get; private set; } = "f32";

    /// <summary>What the peer computes products and attention in, and holds weights in: f32 or bf16.</summary>
    public string PeerType { get; private set; } = "f32";

    public string? Targets { get; private set; }

    public int Rows { get; private set; } = 14;

    public int Tokens { get; private set; } = 64;

    public int Rank { get; private set; } = 64;

    public int Runs { get; private set; } = 5;

    public int Threads { get; private set; } = Environment.ProcessorCount;

    /// <summary>Leave the reference pass out of the rates of both engines, as a run that has cached it.</summary>
    public bool CachedReference { get; private set; }

    /// <summary>Our switch for running blocks again instead of keeping their activations; the peer has none.</summary>
    public bool CheckpointActivations { get; private set; }

    /// <summary>Rows that run together in ours; null for all.</summary>
    public int? MicroBatch { get; private set; }

    /// <summary>Ours runs each text by itself, also where texts of the batch begin alike.</summary>
    public bool TextByText { get; private set; }

    /// <summary>CPU time instead of wall time, for a busy machine.</summary>
    public bool CpuTime { get; private set; }

    /// <summary>The peer takes one coefficient after the other instead of both in one pass.</summary>
    public bool PeerSeparate { get; private set; }

    public bool Profile { get; private set; }

    public bool Memory { get; private set; } = true;

    /// <summary>Our peak memory alone, of a process from its start: loading, quantising and three steps.</summary>
    public bool Peak { get; private set; }

    /// <summary>Set in a child process: measure the peak of one engine and print nothing else.</summary>
    public bool MemoryOnly { get; private set; }

    /// <summary>The arguments that a child needs to build the same problem.</summary>
    public IReadOnlyList<string> ChildArguments(string engine)
    {
        List<string> arguments = ["train", "--memory-only", "--engine", engine, "--model", Model, "--rows", Text(Rows), "--tokens", Text(Tokens), "--rank", Text(Rank), "--threads", Text(Threads), "--weights", Weights, "--peer-type", PeerType];
        if (Targets is not null)
            arguments.AddRange(["--targets", Targets]);
        if (PeerSeparate)
            arguments.Add("--peer-separate");
        if (CheckpointActivations)
            arguments.Add("--checkpoint-activations");
        if (TextByText)
            arguments.Add("--text-by-text");
        if (MicroBatch is { } rows)
            arguments.AddRange(["--micro-batch", Text(rows)]);
        return arguments;
    }

    public static TrainBenchOptions Parse(string[] args)
    {
        var o = new TrainBenchOptions();
        for (int i = 0; i < args.Length; i++)
        {
            string name = args[i];
            switch (name)
            {
                case "--engine": o.Engine = Value(); break;
                case "--model": o.Model = Value(); break;
                case "--weights": o.Weights = Value(); break;
                case "--peer-type": o.PeerType = Value(); break;
                case "--peak": o.Peak = true; break;
                case "--targets": o.Targets = Value(); break;
                case "--rows": o.Rows = Number(); break;
                case "--tokens": o.Tokens = Number(); break;
                case "--rank": o.Rank = Number(); break;
                case "--runs": o.Runs = Number(); break;
                case "--threads": o.Threads = Number(); break;
                case "--cached-reference": o.CachedReference = true; break;
                case "--checkpoint-activations": o.CheckpointActivations = true; break;
                case "--micro-batch": o.MicroBatch = Number(); break;
                case "--text-by-text": o.TextByText = true; break;
                case "--cpu-time": o.CpuTime = true; break;
                case "--peer-separate": o.PeerSeparate = true; break;
                case "--profile": o.Profile = true; break;
                case "--no-memory": o.Memory = false; break;
                case "--memory-only": o.MemoryOnly = true; break;
                default: throw new UserErrorException($"train knows no option {name}");
            }

            string Value() => ++i < args.Length ? args[i] : throw new UserErrorException($"{name} needs a value");
            int Number() => int.TryParse(Value(), CultureInfo.InvariantCulture, out int n) && n > 0 ? n : throw new UserErrorException($"{name} {args[i]} is no positive number");
        }
        if (o.Engine is not ("ours" or "torch" or "both"))
            throw new UserErrorException($"--engine {o.Engine}: ours, torch or both");
        if (o.Weights is not ("f32" or "bf16" or "stored" or "nf4") || o.PeerType is not ("f32" or "bf16"))
            throw new UserErrorException($"--weights {o.Weights}: f32, bf16, stored or nf4; --peer-type {o.PeerType}: f32 or bf16");
        if (o.Rows % 2 != 0 || o.Tokens < 8)
            throw new UserErrorException($"--rows {o.Rows} counts two a pair and must be even, --tokens {o.Tokens} must be at least 8");
        if (o.Model.Length == 0)
            o.Model = DefaultModel ?? throw new UserErrorException($"no .gguf file in {ModelFolder}; give --model FILE, or --model {string.Join(" or ", TrainShapes.Names)} for random weights in such a shape");
        bool random = TrainShapes.Names.Contains(o.Model);
        if (random ? o.Weights == "stored" : o.Weights is "bf16" or "nf4")
            throw new UserErrorException($"--weights {o.Weights} with --model {o.Model}: random weights ({string.Join(", ", TrainShapes.Names)}) are held as f32, bf16 or nf4, a file's as f32 or stored");
        if (o.Weights == "nf4" && o.Engine != "ours" && !o.Peak)
            throw new UserErrorException("--weights nf4: the peer has no 4-bit weights; take --engine ours");
        return o;
    }

    private static string Text(int n) => n.ToString(CultureInfo.InvariantCulture);
}
