using System.Globalization;
using System.Text.Json.Nodes;
using Repeng.Runtime.Logging;
using Repeng.Runtime.Logging.TensorBoard;
using Repeng.Runtime.Logging.Wandb;

namespace Repeng.Testing;

/// <summary>What a W&amp;B server makes of the records of an offline run.</summary>
public sealed class LoggedRun
{
    /// <summary>Reads a .wandb file; numbers of records, and nothing after the exit, are checked.</summary>
    public LoggedRun(string file, bool allowCutEnd = false)
    {
        Records = [.. WandbReader.ReadAll(file, allowCutEnd).Select(e => e.Record)];
        if (!Records.Select(r => r.Num).SequenceEqual(Enumerable.Range(1, Records.Count).Select(n => (long)n)))
            throw new InvalidDataException($"{file}: records are not counted from 1 on");
        foreach (Record record in Records)
        {
            if (Exit is not null)
                throw new InvalidDataException($"{file}: record {record.Num} comes after the exit");
            switch (record.RecordTypeCase)
            {
                case Record.RecordTypeOneofCase.Run:
                    Run = record.Run;
                    Apply(record.Run.Config.Update, Config);
                    break;
                case Record.RecordTypeOneofCase.Summary:
                    Apply(record.Summary.Update, Summary);
                    break;
                case Record.RecordTypeOneofCase.History:
                    var row = new Dictionary<string, string>();
                    Apply(record.History.Item, row);
                    History.Add(((record.History.Step?.Num ?? 0), row.ToDictionary(v => v.Key, v => double.Parse(v.Value, CultureInfo.InvariantCulture))));
                    break;
                case Record.RecordTypeOneofCase.Exit:
                    Exit = record.Exit;
                    break;
            }
        }
    }

    /// <summary>All records.</summary>
    public List<Record> Records { get; }

    /// <summary>The run.</summary>
    public RunRecord? Run { get; }

    /// <summary>Its end; null while it goes on.</summary>
    public RunExitRecord? Exit { get; }

    /// <summary>Settings as JSON.</summary>
    public Dictionary<string, string> Config { get; } = [];

    /// <summary>Last values as JSON.</summary>
    public Dictionary<string, string> Summary { get; } = [];

    /// <summary>Rows in the order of the file.</summary>
    public List<(long Step, Dictionary<string, double> Values)> History { get; } = [];

    /// <summary>The scalars of a folder of events by tag, as TensorBoard shows them: a restart drops what earlier files hold from its step on.</summary>
    public static Dictionary<string, SortedDictionary<long, float>> Scalars(string folder)
    {
        var tags = new Dictionary<string, SortedDictionary<long, float>>();
        foreach (Event e in Directory.GetFiles(folder, "*tfevents*").Order(StringComparer.Ordinal).SelectMany(f => EventReader.Read(f)).Select(e => e.Event))
        {
            if (e.SessionLog?.Status == SessionLog.Types.SessionStatus.Start)
                foreach (SortedDictionary<long, float> series in tags.Values)
                    foreach (long step in series.Keys.Where(s => s >= e.Step).ToArray())
                        series.Remove(step);
            foreach (Summary.Types.Value value in e.Summary?.Value ?? [])
                if (value.ValueCase == Runtime.Logging.TensorBoard.Summary.Types.Value.ValueOneofCase.SimpleValue)
                    (tags.TryGetValue(value.Tag, out SortedDictionary<long, float>? series) ? series : tags[value.Tag] = []).Add(e.Step, value.SimpleValue);
        }
        return tags;
    }

    /// <summary>A value of the summary or the settings.</summary>
    public static JsonNode Json(Dictionary<string, string> values, string name) => JsonNode.Parse(values[name])!;

    private static void Apply(IEnumerable<Item> items, Dictionary<string, string> to)
    {
        foreach (Item item in items)
            to[item.NestedKey.Count > 0 ? string.Join('.', item.NestedKey) : item.Key] = item.ValueJson;
    }
}
