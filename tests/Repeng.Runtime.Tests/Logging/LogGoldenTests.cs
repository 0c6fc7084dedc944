using System.Globalization;
using System.Text.Json.Nodes;
using Google.Protobuf;
using Repeng.Runtime.Logging;
using Repeng.Runtime.Logging.TensorBoard;
using Repeng.Runtime.Logging.Wandb;
using Repeng.Runtime.Tests.Formats;
using Repeng.Testing;
using Record = Repeng.Runtime.Logging.Wandb.Record;

namespace Repeng.Runtime.Tests.Logging;

/// <summary>Logs that wandb and TensorBoard themselves wrote: framing, checksums and every decoded record.</summary>
[Trait("Category", "Golden")]
[Trait("Golden", "logging")]
public sealed class LogGoldenTests
{
    private const string Decoded = ".decoded.json", Framing = ".framing.json";
    private static readonly JsonFormatter s_json = new(JsonFormatter.Settings.Default.WithPreserveProtoFieldNames(true));

    private static string Folder => Golden.Path("logging");

    public static TheoryData<string> WandbFiles() => Names("*.wandb");

    public static TheoryData<string> EventFiles() => Names("*tfevents*");

    public static TheoryData<string> DecodedFiles() => Names("*" + Decoded);

    public static TheoryData<string> FramingFiles() => Names("*" + Framing);

    [Theory]
    [MemberData(nameof(WandbFiles))]
    public void Wandb_records_framed_again_are_the_same_bytes(string name)
    {
        string path = Golden.Require("logging", name);
        var framed = new MemoryStream();
        framed.Write(WandbFraming.FileHeader);
        List<WandbEntry> entries = WandbReader.ReadAll(path);
        Assert.NotEmpty(entries);
        foreach (WandbEntry entry in entries)
            framed.Write(WandbFraming.Frame(framed.Length, entry.Payload.Span));
        Assert.True(File.ReadAllBytes(path).AsSpan().SequenceEqual(framed.ToArray()), $"{name}: framing differs");
        Assert.Equal(Enumerable.Range(1, entries.Count), entries.Select(e => (int)e.Record.Num));
        Assert.All(entries, e => Assert.NotEqual(Record.RecordTypeOneofCase.None, e.Record.RecordTypeCase));
    }

    [Theory]
    [MemberData(nameof(WandbFiles))]
    public void Wandb_rows_written_anew_read_back(string name)
    {
        List<Record> records = [.. WandbReader.ReadAll(Golden.Require("logging", name)).Select(e => e.Record)];
        HistoryRecord[] rows = [.. records.Where(r => r.RecordTypeCase == Record.RecordTypeOneofCase.History).Select(r => r.History)];
        Assert.NotEmpty(rows);
        using var temp = new TempFolder();
        string path = temp.File("rows.wandb");
        using (WandbWriter writer = WandbWriter.Create(path))
        {
            foreach (Record record in records)
                writer.Write(record.Clone());
            Assert.Equal(records.Count, writer.LastNumber);
        }
        Assert.Equal(records, WandbReader.ReadAll(path).Select(e => e.Record));
        // From the middle row on written once more, as a run does that goes on.
        int half = rows.Length / 2;
        int from = records.FindIndex(r => r.History == rows[half]);
        using (WandbWriter writer = WandbWriter.Continue(path, r => !rows[half].Equals(r.History)))
            foreach (Record record in records[from..])
                writer.Write(record.Clone());
        Assert.Equal(records, WandbReader.ReadAll(path).Select(e => e.Record));
    }

    [Theory]
    [MemberData(nameof(WandbFiles))]
    public void A_run_of_ours_has_the_records_that_wandb_wrote(string name)
    {
        var theirs = new LoggedRun(Golden.Require("logging", name));
        using var temp = new TempFolder();
        DateTimeOffset At(double seconds) => DateTimeOffset.UnixEpoch.AddTicks((long)Math.Round(seconds * TimeSpan.TicksPerSecond));
        // Their clock began before the first row by what that row says.
        Dictionary<string, double> first = theirs.History[0].Values;
        string file;
        using (WandbRun run = WandbRun.Create(temp.Root, theirs.Run!.Project, "ours", theirs.Config, At(first["_timestamp"] - first["_runtime"])))
        {
            file = run.FilePath;
            Assert.Equal(run.Folder, Path.GetDirectoryName(file));
            foreach ((long step, Dictionary<string, double> values) in theirs.History)
                run.History(step, values.Where(v => v.Key[0] != '_'), At(values["_timestamp"]));
            run.Summary(theirs.Summary.Where(v => !theirs.History[^1].Values.ContainsKey(v.Key) && v.Key != "_wandb.runtime"));
            run.Exit(theirs.Exit!.ExitCode, At(theirs.History[^1].Values["_timestamp"]));
        }
        var ours = new LoggedRun(file);
        Assert.Equal($"run-{ours.Run!.RunId}.wandb", Path.GetFileName(file));
        Assert.Equal((theirs.Run.Project, theirs.Exit.ExitCode), (ours.Run.Project, ours.Exit!.ExitCode));
        Assert.Equal(theirs.Config, ours.Config);
        Assert.Equal(theirs.Summary.Keys.Append("_wandb.runtime").Distinct().Order(), ours.Summary.Keys.Order());
        Assert.Equal(theirs.History.Select(h => h.Step), ours.History.Select(h => h.Step));
        foreach ((var want, var got) in theirs.History.Zip(ours.History))
        {
            Assert.Equal(want.Values.Keys.Order(), got.Values.Keys.Order());
            // wandb reads another clock for the time that passed than for the time of day.
            foreach ((string key, double value) in want.Values.Where(v => v.Key != "_runtime"))
                Assert.True(Math.Abs(value - got.Values[key]) <= (key == "_timestamp" ? 1e-3 : 0), $"{name}, step {want.Step}, {key}: {value} is wanted, {got.Values[key]} found");
            Assert.Equal(first["_runtime"] + got.Values["_timestamp"] - first["_timestamp"], got.Values["_runtime"], 1e-3);
        }
    }

    [Theory]
    [MemberData(nameof(EventFiles))]
    public void Events_framed_again_are_the_same_bytes(string name)
    {
        string path = Golden.Require("logging", name);
        byte[] framed = [.. EventReader.Read(path).SelectMany(e => EventFraming.Frame(e.Data.Span))];
        Assert.NotEmpty(framed);
        Assert.True(File.ReadAllBytes(path).AsSpan().SequenceEqual(framed), $"{name}: framing differs");
        Assert.Equal(Event.WhatOneofCase.FileVersion, EventReader.Read(path).First().Event.WhatCase);
    }

    [Theory]
    [MemberData(nameof(EventFiles))]
    public void Scalars_written_anew_read_back(string name)
    {
        List<Event> scalars = [.. EventReader.Read(Golden.Require("logging", name)).Select(e => e.Event)
            .Where(e => e.Summary?.Value is [{ ValueCase: Summary.Types.Value.ValueOneofCase.SimpleValue }])];
        Assert.NotEmpty(scalars);
        using var temp = new TempFolder();
        string path;
        using (EventWriter writer = EventWriter.Create(temp.Root, DateTimeOffset.UnixEpoch.AddSeconds(1.7e9)))
        {
            path = writer.FilePath;
            foreach (Event e in scalars)
                writer.Scalars(e.Step, DateTimeOffset.UnixEpoch.AddSeconds(e.WallTime), [new(e.Summary.Value[0].Tag, e.Summary.Value[0].SimpleValue)]);
        }
        Assert.Contains("tfevents.1700000000.", path, StringComparison.Ordinal);
        Assert.Equal(scalars, EventReader.Read(path).Skip(1).Select(e => e.Event));
    }

    [Theory]
    [MemberData(nameof(DecodedFiles))]
    public void Every_record_decodes_to_what_protobuf_says(string name)
    {
        JsonArray wanted = JsonNode.Parse(File.ReadAllText(Golden.Require("logging", name)))!.AsArray();
        string path = LogOf(name[..^Decoded.Length]);
        if (path.EndsWith(".wandb", StringComparison.Ordinal))
        {
            List<WandbEntry> entries = WandbReader.ReadAll(path);
            Assert.Equal(wanted.Count, entries.Count);
            foreach ((JsonNode? want, WandbEntry entry) in wanted.Zip(entries))
                Same(want, JsonNode.Parse(s_json.Format(entry.Record)), $"{name}, record {entry.Record.Num}");
            return;
        }
        EventEntry[] events = [.. EventReader.Read(path)];
        Assert.Equal(wanted.Count, events.Length);
        foreach ((JsonNode? want, EventEntry entry) in wanted.Zip(events))
        {
            string where = $"{name}, event at {entry.Offset}";
            Assert.Equal((long)want!["offset"]!, entry.Offset);
            Assert.Equal((int)want["length"]!, entry.Data.Length);
            Assert.Equal((string)want["masked_crc32c_length"]!, entry.LengthChecksum.ToString("x8"));
            Assert.Equal((string)want["masked_crc32c_data"]!, entry.DataChecksum.ToString("x8"));
            Same(want["event"], JsonNode.Parse(s_json.Format(entry.Event)), where);
        }
    }

    [Theory]
    [MemberData(nameof(FramingFiles))]
    public void Chunks_lie_where_they_are_said_to_lie(string name)
    {
        JsonObject all = JsonNode.Parse(File.ReadAllText(Golden.Require("logging", name)))!.AsObject();
        string[] files = [.. all.Select(p => p.Key).Where(k => k.EndsWith(".wandb", StringComparison.Ordinal))];
        Assert.NotEmpty(files);
        foreach (string file in files)
        {
            List<WandbEntry> entries = WandbReader.ReadAll(Golden.Require("logging", file));
            JsonArray wanted = all[file]!.AsArray();
            Assert.Equal(wanted.Count, entries.Count);
            foreach ((JsonNode? want, WandbEntry entry) in wanted.Zip(entries))
            {
                Assert.Equal((int)want!["record_bytes"]!, entry.Payload.Length);
                Assert.Equal((string)want["type"]!, entry.Record.RecordTypeCase.ToString().ToLowerInvariant());
                Assert.Equal(want["chunks"]!.AsArray().Select(c => new WandbChunk((long)c!["offset"]!, (WandbChunkType)(int)c["type"]!, (int)c["length"]!,
                    uint.Parse((string)c["crc"]!, NumberStyles.HexNumber, CultureInfo.InvariantCulture))), entry.Chunks);
            }
        }
    }

    // The log that a decoded file belongs to: the one whose name begins as its.
    private static string LogOf(string stem) =>
        File.Exists(Path.Combine(Folder, stem + ".wandb")) ? Path.Combine(Folder, stem + ".wandb")
        : Directory.GetFiles(Folder, stem + "*tfevents*") is [var only] ? only
        : throw new InvalidDataException($"{stem}{Decoded}: no log {stem}.wandb, and not exactly one {stem}*tfevents* beside it");

    private static void Same(JsonNode? want, JsonNode? got, string where)
    {
        switch (want)
        {
            case JsonObject o:
                Assert.Equal(o.Select(p => p.Key).Order(), Assert.IsType<JsonObject>(got).Select(p => p.Key).Order());
                foreach ((string key, JsonNode? value) in o)
                    Same(value, got![key], $"{where}.{key}");
                break;
            case JsonArray a:
                Assert.Equal(a.Count, Assert.IsType<JsonArray>(got).Count);
                for (int i = 0; i < a.Count; i++)
                    Same(a[i], got![i], $"{where}[{i}]");
                break;
            case JsonValue v when v.GetValueKind() == System.Text.Json.JsonValueKind.Number:
                Assert.True((double)v == (double)got!, $"{where}: {v} is wanted, {got} found");
                break;
            default:
                Assert.True(JsonNode.DeepEquals(want, got), $"{where}: {want} is wanted, {got} found");
                break;
        }
    }

    private static TheoryData<string> Names(string pattern) => [.. Golden.Files("logging", pattern)];
}
