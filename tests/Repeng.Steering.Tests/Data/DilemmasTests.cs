using Repeng.Kernels;
using Repeng.Steering.Data;

namespace Repeng.Steering.Tests.Data;

/// <summary>Dilemma files, the built-in ones, and the reader of the public data set.</summary>
public sealed class DilemmasTests : IDisposable
{
    private readonly string _folder = Directory.CreateTempSubdirectory("repeng-dilemmas").FullName;

    /// <inheritdoc/>
    public void Dispose() => Directory.Delete(_folder, recursive: true);

    [Fact]
    public void The_built_in_set_asks_for_truth_both_ways_and_has_controls()
    {
        IReadOnlyList<Dilemma> own = Dilemmas.Own;
        int yes = own.Count(d => d.Label("truthfulness") > 0), no = own.Count(d => d.Label("truthfulness") < 0);
        Assert.Equal(yes, no);
        Assert.InRange(own.Count - yes - no, 8, own.Count);
        Assert.InRange(own.Count, 24, 100);
        Assert.All(own, d => Assert.NotEmpty(d.Values));
        // Any beginning of the file, as --max_questions takes it, has every kind.
        Assert.Equal([-1.0, 0, 1], own.Take(6).Select(d => d.Label("truthfulness")).Distinct().Order());
    }

    [Fact]
    public void A_file_reads_as_it_was_written()
    {
        string path = Write("d.jsonl", Dilemmas.ToJsonLines(Dilemmas.Own));
        IReadOnlyList<Dilemma> read = Dilemmas.Load(path);
        Assert.Equal(Dilemmas.Own.Select(d => (d.Id, d.Situation, d.Action)), read.Select(d => (d.Id, d.Situation, d.Action)));
        Assert.All(Dilemmas.Own.Zip(read), p => Assert.Equal(p.First.Values, p.Second.Values));
        Dilemma listed = Assert.Single(Dilemmas.Load(Write("l.jsonl", "\n{\"situation\": \"s\", \"action\": \"a\", \"values\": [\"Trust\", \"care\"], \"topic\": 3}\n")));
        Assert.Equal("2", listed.Id);
        Assert.Equal(1, listed.Label("trust"));
        Assert.Equal(0, listed.Label("truthfulness"));
    }

    [Theory]
    [InlineData("'situation' is missing", "{\"action\": \"a\", \"values\": []}")]
    [InlineData("'action' is missing", "{\"situation\": \"s\", \"values\": []}")]
    [InlineData("'values' is missing", "{\"situation\": \"s\", \"action\": \"a\", \"value\": []}")]
    [InlineData("'action' must be a text", "{\"situation\": \"s\", \"action\": \" \", \"values\": []}")]
    [InlineData("'situation' must be a text", "{\"situation\": null, \"action\": \"a\", \"values\": []}")]
    [InlineData("'values' must be", "{\"situation\": \"s\", \"action\": \"a\", \"values\": \"trust\"}")]
    [InlineData("'values' must be", "{\"situation\": \"s\", \"action\": \"a\", \"values\": [1]}")]
    [InlineData("'values' must be", "{\"situation\": \"s\", \"action\": \"a\", \"values\": {\"trust\": 0}}")]
    [InlineData("comes twice", "{\"situation\": \"s\", \"action\": \"a\", \"values\": [\"trust\", \"Trust\"]}")]
    [InlineData("not valid JSON", "{\"situation\": \"s\", \"situation\": \"t\", \"action\": \"a\", \"values\": []}")]
    [InlineData("is that of line 1", "{\"id\": \"1\", \"situation\": \"s\", \"action\": \"a\", \"values\": []}")]
    [InlineData("not valid JSON", "{\"situation\": ")]
    [InlineData("JSON object", "[]")]
    public void A_wrong_line_is_named(string said, string line)
    {
        string path = Write("bad.jsonl", "{\"situation\": \"s\", \"action\": \"a\", \"values\": [\"trust\"]}\n\n" + line + "\n");
        string message = Assert.Throws<UserErrorException>(() => Dilemmas.Load(path)).Message;
        Assert.Contains($"{path}, line 3", message);
        Assert.Contains(said, message);
    }

    [Fact]
    public void A_missing_or_empty_file_is_refused()
    {
        Assert.Contains("no such file", Assert.Throws<UserErrorException>(() => Dilemmas.Load(Path.Combine(_folder, "none"))).Message);
        Assert.Contains("no dilemma", Assert.Throws<UserErrorException>(() => Dilemmas.Load(Write("e.jsonl", "\n"))).Message);
        Assert.Contains("no dilemma", Assert.Throws<UserErrorException>(() => DailyDilemmas.Load(Write("e.csv", "dilemma_idx,action_type,dilemma_situation,action,values_aggregated\n"))).Message);
    }

    [Fact]
    public void Rows_of_the_public_layout_are_labelled_from_their_own_side()
    {
        const string csv = "idx,dilemma_idx,basic_situation,dilemma_situation,action_type,action,negative_consequence,values_aggregated,topic,topic_group\r\n"
            + "0,7,b,\"You found, by chance,\na \"\"secret\"\".\",to_do,Tell it.,n,\"['truthfulness', \"\"one's duty\"\", 'Trust']\",t,g\r\n"
            + "1,7,b,\"You found, by chance,\na \"\"secret\"\".\",not_to_do,Keep it.,n,\"['trust', 'care']\",t,g\r\n";
        // The same rows as JSON lines, once with a list and once with its text.
        const string json = "{\"dilemma_idx\": 7, \"action_type\": \"to_do\", \"dilemma_situation\": \"You found, by chance,\\na \\\"secret\\\".\", \"action\": \"Tell it.\", \"values_aggregated\": [\"truthfulness\", \"one's duty\", \"Trust\"]}\n"
            + "{\"dilemma_idx\": 7, \"action_type\": \"not_to_do\", \"dilemma_situation\": \"You found, by chance,\\na \\\"secret\\\".\", \"action\": \"Keep it.\", \"values_aggregated\": \"['trust', 'care']\"}\n";
        foreach (string path in new[] { Write("x.csv", csv), Write("x.jsonl", json) })
        {
            IReadOnlyList<Dilemma> read = DailyDilemmas.Load(path);
            Assert.Equal(["7/to_do", "7/not_to_do"], read.Select(d => d.Id));
            Assert.All(read, d => Assert.Equal("You found, by chance,\na \"secret\".", d.Situation));
            Assert.Equal(["Tell it.", "Keep it."], read.Select(d => d.Action));
            Assert.Equal([("truthfulness", 1), ("one's duty", 1), ("care", -1)], read[0].Values.Select(v => (v.Key, (int)v.Value)));
            Assert.Equal([("care", 1), ("truthfulness", -1), ("one's duty", -1)], read[1].Values.Select(v => (v.Key, (int)v.Value)));
        }
    }

    [Theory]
    [InlineData("line 2: dilemma 7 has a row of type to_do and none", "7,to_do,s,a,['x']\n")]
    [InlineData("line 3: dilemma 7 has a second row of type to_do, the first is in line 2", "7,to_do,s,a,['x']\n7,to_do,s,a,['x']\n")]
    [InlineData("line 2: the field 'action'", "7,to_do,s,,['x']\n")]
    [InlineData("line 2: action_type is 'maybe'", "7,maybe,s,a,['x']\n")]
    [InlineData("line 2: values_aggregated is no list", "7,to_do,s,a,x\n")]
    [InlineData("line 2: values_aggregated is no list", "7,to_do,s,a,[null]\n")]
    [InlineData("line 2: values_aggregated is no list", "7,to_do,s,a,['x' 'y']\n")]
    [InlineData("line 2: values_aggregated is no list", "7,to_do,s,a,['x]\n")]
    [InlineData("line 2: 4 cells, the header has 5", "7,to_do,s,a\n")]
    [InlineData("line 2: a quote is opened", "7,to_do,\"s,a,['x']\n")]
    public void A_wrong_row_of_the_public_layout_is_named(string said, string rows)
    {
        string path = Write("x.csv", "dilemma_idx,action_type,dilemma_situation,action,values_aggregated\n" + rows);
        Assert.Contains(said, Assert.Throws<UserErrorException>(() => DailyDilemmas.Load(path)).Message);
    }

    private string Write(string name, string text)
    {
        string path = Path.Combine(_folder, name);
        File.WriteAllText(path, text);
        return path;
    }
}
