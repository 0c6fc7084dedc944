using System.Text.Json;

namespace Repeng.Fuzz;

/// <summary>What one reader was given so far.</summary>
internal sealed record FuzzCount
{
    public long Runs { get; init; }

    public int Faults { get; init; }

    public double Seconds { get; init; }

    /// <summary>Places of the map that were reached.</summary>
    public int Branches { get; init; }
}

/// <summary>Counts and found inputs of a reader, kept in a folder so that a killed run goes on; at most the inputs since the last note are not counted.</summary>
internal sealed class FuzzState
{
    private readonly string _count;
    private readonly string _inputs;

    private FuzzState(string folder, string name)
    {
        (_count, _inputs) = (Path.Combine(folder, name + ".json"), Path.Combine(folder, name));
        Directory.CreateDirectory(_inputs);
        Count = File.Exists(_count) ? JsonSerializer.Deserialize<FuzzCount>(File.ReadAllText(_count))! : new FuzzCount();
    }

    /// <summary>As of the start.</summary>
    public FuzzCount Count { get; }

    public static FuzzState Open(string folder, string name) => new(folder, name);

    /// <summary>The files of a folder in the order of their names; none where there is no folder.</summary>
    public static IEnumerable<byte[]> Inputs(string folder) =>
        Directory.Exists(folder) ? Directory.GetFiles(folder).Order(StringComparer.Ordinal).Select(File.ReadAllBytes) : [];

    public IEnumerable<byte[]> Found() => Inputs(_inputs).ToList();

    public void Add(byte[] input) => File.WriteAllBytes(Path.Combine(_inputs, FuzzLoop.Name(input)), input);

    public void Note(FuzzCount count)
    {
        string next = _count + ".next";
        File.WriteAllText(next, JsonSerializer.Serialize(count));
        File.Move(next, _count, overwrite: true);
    }
}
