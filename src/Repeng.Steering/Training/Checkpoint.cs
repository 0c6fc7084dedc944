using System.Text;
using System.Text.Json;
using System.Text.Json.Nodes;
using Repeng.Kernels;
using Repeng.Runtime;
using Repeng.Runtime.Formats;
using Repeng.Steering.Adapters;

namespace Repeng.Steering.Training;

/// <summary>
/// A run's state on disk: one safetensors file with parameters, both moments, the best parameters and, as metadata,
/// the position. One file means that a checkpoint is the old one or the new one, never half of each. While it is not
/// known yet whether the loss is finite on the newest state, the one before it is kept beside it.
/// </summary>
public static class Checkpoint
{
    /// <summary>Name of the file in a run's folder.</summary>
    public const string Name = "checkpoint.safetensors";

    /// <summary>The last state on which loss and gradient are known to be finite, while <see cref="Name"/> is not known to be such.</summary>
    public const string ProvenName = "checkpoint.proven.safetensors";

    /// <summary>Writes the state of a loop.</summary>
    public static void Save(string folder, TrainingLoop loop, IAdapter adapter, string settings)
    {
        var writer = new SafetensorsWriter();
        foreach ((Tensor p, Tensor m, Tensor v) in loop.Optimiser.State)
        {
            writer.Add($"parameter.{p.Name}", Shape(p), p.ToArray());
            writer.Add($"m.{p.Name}", Shape(p), m.ToArray());
            writer.Add($"v.{p.Name}", Shape(p), v.ToArray());
        }
        for (int i = 0; i < loop.BestParameters.Count; i++)
            writer.Add($"best.{adapter.Parameters[i].Name}", Shape(adapter.Parameters[i]), loop.BestParameters[i]);
        LoopState s = loop.State;
        writer.SetMetadata("step", s.Step.ToString(System.Globalization.CultureInfo.InvariantCulture));
        writer.SetMetadata("optimiser_steps", s.OptimiserSteps.ToString(System.Globalization.CultureInfo.InvariantCulture));
        writer.SetMetadata("best_validation", BitConverter.DoubleToInt64Bits(s.BestValidation).ToString("x16", System.Globalization.CultureInfo.InvariantCulture));
        writer.SetMetadata("checks_since_best", s.ChecksSinceBest.ToString(System.Globalization.CultureInfo.InvariantCulture));
        writer.SetMetadata("settings", settings);
        writer.SetMetadata("fingerprint", adapter.Model.Fingerprint);
        writer.Write(Path.Combine(folder, Name));
    }

    /// <summary>Before a new checkpoint is written: puts a proven one aside.</summary>
    public static void KeepProven(string folder)
    {
        string newest = Path.Combine(folder, Name), proven = Path.Combine(folder, ProvenName);
        if (File.Exists(newest) && !File.Exists(proven))
            File.Move(newest, proven);
    }

    /// <summary>The newest checkpoint turned out to be good: the one before it goes.</summary>
    public static void Prove(string folder)
    {
        string proven = Path.Combine(folder, ProvenName);
        if (File.Exists(Path.Combine(folder, Name)) && File.Exists(proven))
            File.Delete(proven);
    }

    /// <summary>The newest checkpoint turned out to be bad: it goes, and the one before it, if there is one, is the checkpoint again.</summary>
    public static void Discard(string folder)
    {
        string newest = Path.Combine(folder, Name), proven = Path.Combine(folder, ProvenName);
        if (File.Exists(proven))
            File.Move(proven, newest, overwrite: true);
        else if (File.Exists(newest))
            File.Delete(newest);
    }

    /// <summary>Whether a folder has a state to go on from: the newest one or, when a kill came between putting the proven one aside and writing the next, that.</summary>
    public static bool IsIn(string folder) => File.Exists(Path.Combine(folder, Name)) || File.Exists(Path.Combine(folder, ProvenName));

    /// <summary>The settings that a checkpoint was written with, as JSON.</summary>
    public static string ReadSettings(string folder)
    {
        using SafetensorsFile file = OpenFile(folder);
        return Metadata(file, "settings");
    }

    /// <summary>Puts a loop where a checkpoint left it.</summary>
    public static void Load(string folder, TrainingLoop loop, IAdapter adapter)
    {
        using SafetensorsFile file = OpenFile(folder);
        if (Metadata(file, "fingerprint") != adapter.Model.Fingerprint)
            throw new UserErrorException($"{folder}: the run was on another base model (fingerprint {Metadata(file, "fingerprint")}, here {adapter.Model.Fingerprint}); give the same --model");
        foreach ((Tensor p, Tensor m, Tensor v) in loop.Optimiser.State)
        {
            Read(p, $"parameter.{p.Name}");
            Read(m, $"m.{p.Name}");
            Read(v, $"v.{p.Name}");
        }
        loop.BestParameters = [.. adapter.Parameters.Where(p => file.Contains($"best.{p.Name}")).Select(p => file.ReadF32($"best.{p.Name}"))];
        loop.State = new LoopState
        {
            Step = Number("step"),
            OptimiserSteps = Number("optimiser_steps"),
            BestValidation = BitConverter.Int64BitsToDouble(long.Parse(Metadata(file, "best_validation"), System.Globalization.NumberStyles.HexNumber, System.Globalization.CultureInfo.InvariantCulture)),
            ChecksSinceBest = Number("checks_since_best"),
        };
        loop.Optimiser.Resume(loop.State.OptimiserSteps);

        int Number(string key) => int.TryParse(Metadata(file, key), out int n) && n >= 0 ? n : throw new UserErrorException($"{file.Description}: metadata {key} is damaged");

        void Read(Tensor t, string name)
        {
            file.Info(name, Shape(t));
            t.Upload(file.ReadF32(name));
        }
    }

    private static SafetensorsFile OpenFile(string folder)
    {
        if (!IsIn(folder))
            throw new UserErrorException($"{folder}: no {Name} to resume from; give the folder of a run that was stopped (it ends in {RunFolder.PartialSuffix})");
        string newest = Path.Combine(folder, Name);
        return SafetensorsFile.Open(File.Exists(newest) ? newest : Path.Combine(folder, ProvenName));
    }

    private static string Metadata(SafetensorsFile file, string key) => file.Metadata.TryGetValue(key, out string? value) ? value : throw new UserErrorException($"{file.Description}: metadata {key} is missing; this is no checkpoint of a training run");

    private static long[] Shape(Tensor t) => [.. t.Shape.Select(s => (long)s)];
}
