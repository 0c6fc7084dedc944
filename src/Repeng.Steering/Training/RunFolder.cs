using System.Globalization;
using System.Text;
using Repeng.Kernels;
using Repeng.Runtime.Formats;

namespace Repeng.Steering.Training;

/// <summary>
/// The folder of a run: it carries <see cref="PartialSuffix"/> while the run goes on and loses it when everything is
/// written, so a folder without it is whole.
/// </summary>
public sealed class RunFolder : IDisposable
{
    /// <summary>Ending of the name of an unfinished run.</summary>
    public const string PartialSuffix = ".partial";

    private static readonly string[] s_columns =
        ["step", "epoch", "c", "layer", "loss_proj", "loss_coherence", "loss_total", "logp_degradation", "prob_ratio", "proj_pi_signed", "proj_ref_signed", "separation_norm", "lr"];

    private readonly string[] _metrics;
    private readonly StreamWriter _csv;
    private readonly StreamWriter _jsonl;

    private RunFolder(string partial, string final, IReadOnlyList<string> metrics, bool append)
    {
        (Path, FinalPath) = (partial, final);
        _metrics = [.. metrics.Except(s_columns)];
        _csv = Open("training_history.csv", append);
        _jsonl = Open("metrics.jsonl", append);
        if (!append)
            _csv.WriteLine(string.Join(',', s_columns.Concat(_metrics)));
    }

    /// <summary>Where the run writes now.</summary>
    public string Path { get; private set; }

    /// <summary>Where it will be in the end.</summary>
    public string FinalPath { get; }

    /// <summary>Throws where <see cref="Create"/> would: to be called before minutes of work.</summary>
    public static void RequireFree(string final)
    {
        string partial = final + PartialSuffix;
        if (Directory.Exists(final) || File.Exists(final))
            throw new UserErrorException($"output folder {final} exists; choose another --output_dir or --run_name, or remove it");
        if (Directory.Exists(partial))
            throw new UserErrorException($"{partial} holds an unfinished run; go on with it by --resume {partial}, or remove it");
    }

    /// <summary>A new run's folder; one that exists already is refused. metrics are columns of the history beyond the usual ones.</summary>
    public static RunFolder Create(string final, IReadOnlyList<string> metrics)
    {
        RequireFree(final);
        string partial = final + PartialSuffix;
        try
        {
            Directory.CreateDirectory(partial);
            return new RunFolder(partial, final, metrics, append: false);
        }
        catch (Exception e) when (e is IOException or UnauthorizedAccessException)
        {
            throw new UserErrorException($"output folder {partial} cannot be written: {e.Message}", e);
        }
    }

    /// <summary>The folder of a run that was stopped; history written after its checkpoint (at <paramref name="step"/> batches) is cut off.</summary>
    public static RunFolder Reopen(string partial, int step, IReadOnlyList<string> metrics)
    {
        partial = System.IO.Path.TrimEndingDirectorySeparator(partial);
        if (!partial.EndsWith(PartialSuffix, StringComparison.Ordinal))
            throw new UserErrorException($"{partial}: the name of an unfinished run ends in {PartialSuffix}; a finished run cannot be resumed");
        Keep(System.IO.Path.Combine(partial, "training_history.csv"), line => !int.TryParse(line.Split(',')[0], CultureInfo.InvariantCulture, out int s) || s < step);
        Keep(System.IO.Path.Combine(partial, "metrics.jsonl"), line => !TryStep(line, out int s) || s < step);
        return new RunFolder(partial, partial[..^PartialSuffix.Length], metrics, append: true);
    }

    /// <summary>Writes the rows of one batch.</summary>
    public void Log(TrainingProgress p)
    {
        int step = p.Step - 1;
        foreach (LossRow r in p.Rows)
        {
            string[] own = [F(r.C), r.Layer, F(r.LossProj), F(r.LossCoherence), F(r.LossTotal), F(r.LogpDegradation), F(r.ProbRatio), F(r.ProjPi), F(r.ProjRef), F(r.SeparationNorm), F(p.LearningRate)];
            _csv.WriteLine(string.Join(',', own.Concat(_metrics.Select(m => F(r.Metrics![m]))).Prepend(F(p.Epoch)).Prepend(F(step))));
        }
        // As upstream logs: the mean over the rows of a step.
        string more = string.Concat(_metrics.Select(m => $",\"{m}\":{J(p.Rows.Average(r => r.Metrics![m]))}"));
        string validation = p.ValidationLoss is { } v ? $",\"val_loss\":{J(v)}" : "";
        _jsonl.WriteLine($"{{\"step\":{step},\"epoch\":{p.Epoch},\"loss_total\":{J(p.Loss)},\"separation\":{J(p.Separation)},\"logp_degradation\":{J(p.Degradation)},\"lr\":{J(p.LearningRate)}{validation}{more}}}");
    }

    /// <summary>Brings what was logged to the disk.</summary>
    public void Flush()
    {
        _csv.Flush();
        _jsonl.Flush();
    }

    /// <summary>Gives the folder its final name; the checkpoint goes.</summary>
    public void Finish()
    {
        Dispose();
        foreach (string checkpoint in new[] { Checkpoint.Name, Checkpoint.ProvenName })
            File.Delete(System.IO.Path.Combine(Path, checkpoint));
        Directory.Move(Path, FinalPath);
        Path = FinalPath;
    }

    /// <summary>Takes the folder of a new run away again, before anything was trained.</summary>
    public void Abandon()
    {
        Dispose();
        Directory.Delete(Path, recursive: true);
    }

    /// <inheritdoc/>
    public void Dispose()
    {
        _csv.Dispose();
        _jsonl.Dispose();
    }

    private StreamWriter Open(string name, bool append) => new(System.IO.Path.Combine(Path, name), append, new UTF8Encoding(false));

    private static void Keep(string path, Func<string, bool> keep)
    {
        string[] lines = File.Exists(path) ? [.. File.ReadAllLines(path).Where(l => l.Length > 0)] : [];
        string text = string.Concat(lines.Where(keep).Select(l => l + "\n"));
        AtomicFile.Write(path, s => s.Write(Encoding.UTF8.GetBytes(text)));
    }

    private static bool TryStep(string line, out int step)
    {
        step = 0;
        const string head = "{\"step\":";
        if (!line.StartsWith(head, StringComparison.Ordinal))
            return false;
        int end = line.IndexOf(',', StringComparison.Ordinal);
        return end > 0 && int.TryParse(line[head.Length..end], CultureInfo.InvariantCulture, out step);
    }

    private static string F(double x) => x.ToString("G9", CultureInfo.InvariantCulture);

    private static string J(double x) => double.IsFinite(x) ? x.ToString("R", CultureInfo.InvariantCulture) : "null";
}
