using System.Text;
using System.Text.Json;
using System.Text.Json.Serialization;
using Repeng.Kernels;
using Repeng.Runtime.Formats;

namespace Repeng.Cli.Results;

/// <summary>
/// The records of a results folder, one JSON object a line in records.jsonl. Every record that is added replaces the file as a whole,
/// so that a run that is killed has all but the one that it was at. One program at a time writes it.
/// </summary>
internal sealed class ResultsStore : IDisposable
{
    /// <summary>Name of the file.</summary>
    public const string FileName = "records.jsonl";

    private const long MostBytes = 64 << 20;
    private static readonly ResultsJson s_json = new(new JsonSerializerOptions(ResultsJson.Default.Options) { Encoder = System.Text.Encodings.Web.JavaScriptEncoder.UnsafeRelaxedJsonEscaping });

    private readonly string _path;
    private readonly List<ResultsRecord> _records;
    private readonly FileStream? _lock;

    private ResultsStore(string path, List<ResultsRecord> records, FileStream? held) => (_path, _records, _lock) = (path, records, held);

    /// <summary>The records, in the order in which they were made.</summary>
    public IReadOnlyList<ResultsRecord> Records => _records;

    /// <summary>Opens a folder's records for reading, or for a run that adds to them.</summary>
    public static ResultsStore Open(string folder, bool write)
    {
        string path = Path.Combine(folder, FileName);
        FileStream? held = null;
        if (write)
        {
            Directory.CreateDirectory(folder);
            string file = Path.Combine(folder, ".lock");
            try
            {
                held = new FileStream(file, FileMode.OpenOrCreate, FileAccess.ReadWrite, FileShare.None, 1, FileOptions.DeleteOnClose);
            }
            catch (IOException e)
            {
                throw new UserErrorException($"{file} cannot be locked ({e.Message}): another run writes to {folder}; wait for it, or take another --output", e);
            }
        }
        try
        {
            return new ResultsStore(path, Read(path), held);
        }
        catch
        {
            held?.Dispose();
            throw;
        }
    }

    /// <summary>Adds a record in the place of an earlier one of the same key, and has it on disk when it returns.</summary>
    public void Add(ResultsRecord record)
    {
        _records.RemoveAll(r => r.Key == record.Key);
        _records.Add(record);
        Write();
    }

    /// <summary>Takes records out.</summary>
    public void Remove(IEnumerable<ResultsRecord> records)
    {
        if (_records.RemoveAll(new HashSet<ResultsRecord>(records, ReferenceEqualityComparer.Instance).Contains) > 0)
            Write();
    }

    /// <inheritdoc/>
    public void Dispose() => _lock?.Dispose();

    private void Write()
    {
        var text = new StringBuilder();
        foreach (ResultsRecord r in _records)
            text.Append(JsonSerializer.Serialize(r, s_json.ResultsRecord)).Append('\n');
        AtomicFile.WriteText(_path, text.ToString());
    }

    private static List<ResultsRecord> Read(string path)
    {
        var records = new List<ResultsRecord>();
        if (!File.Exists(path))
            return records;
        int number = 0;
        foreach (string line in JsonFile.ReadText(path, MostBytes).Split('\n'))
        {
            number++;
            if (line.Trim().Length == 0)
                continue;
            records.Add(Parse(line, $"{path}, line {number}"));
            if (records.Take(records.Count - 1).Any(r => r.Key == records[^1].Key))
                throw new UserErrorException($"{path}, line {number}: a second record of {records[^1].Task}, {records[^1].Method}, seed {records[^1].Seed}; remove one of them");
        }
        return records;
    }

    private static ResultsRecord Parse(string line, string where)
    {
        try
        {
            ResultsRecord record = JsonSerializer.Deserialize(line, s_json.ResultsRecord) ?? throw new JsonException("it is null");
            return record.Points is null || record.Task.Length * record.Method.Length == 0 ? throw new JsonException("task, method or points are missing") : record;
        }
        catch (JsonException e)
        {
            throw new UserErrorException($"{where}: no record of results: {e.Message.Split('\n')[0]}; remove the line to measure it again", e);
        }
    }
}

/// <summary>Generated code for records.</summary>
[JsonSourceGenerationOptions(PropertyNamingPolicy = JsonKnownNamingPolicy.SnakeCaseLower, DefaultIgnoreCondition = JsonIgnoreCondition.WhenWritingNull,
    UnmappedMemberHandling = JsonUnmappedMemberHandling.Disallow, RespectNullableAnnotations = true)]
[JsonSerializable(typeof(ResultsRecord))]
internal sealed partial class ResultsJson : JsonSerializerContext;
