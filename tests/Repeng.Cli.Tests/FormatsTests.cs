using System.Text.RegularExpressions;
using Repeng.Steering.Adapters.Peft;
using Repeng.Testing;

namespace Repeng.Cli.Tests;

/// <summary>The page of formats: every cell that claims something names a test that exists, and nothing that is read is left out.</summary>
public sealed partial class FormatsTests
{
    private static readonly string[] s_lines = [.. File.ReadAllLines(Path.Combine(Golden.Repository, "docs", "formats.md")).Where(l => l.StartsWith('|'))];

    /// <summary>Rows of cells, heads and rules left out.</summary>
    private static string[][] Rows => [.. s_lines.Where((l, i) => !l.StartsWith("|-", StringComparison.Ordinal) && !(i + 1 < s_lines.Length && s_lines[i + 1].StartsWith("|-", StringComparison.Ordinal))).Select(Cells)];

    [Fact]
    public void Every_cell_names_a_test_or_says_that_there_is_none()
    {
        Assert.True(Rows.Length > 20, $"{Rows.Length} rows");
        string[] bare = [.. Rows.SelectMany(r => r.Skip(1).Where(c => !Test().IsMatch(c) && !c.StartsWith('—')).Select(c => $"{r[0]}: '{c}'"))];
        Assert.Empty(bare);
    }

    [Fact]
    public void Every_test_that_it_names_exists()
    {
        HashSet<string> tests = TestNames.Tests();
        string[] named = [.. s_lines.SelectMany(l => Test().Matches(l)).Select(m => m.Groups[1].Value).Distinct()];
        Assert.NotEmpty(named);
        Assert.Equal([], named.Except(tests));
    }

    [Fact]
    public void No_row_stands_there_twice_and_columns_are_those_of_the_head()
    {
        Assert.Empty(Rows.GroupBy(r => r[0]).Where(g => g.Count() > 1).Select(g => g.Key));
        int width = 0;
        foreach (string line in s_lines)
        {
            int at = Array.IndexOf(s_lines, line);
            if (at + 1 < s_lines.Length && s_lines[at + 1].StartsWith("|-", StringComparison.Ordinal))
                width = Cells(line).Length;
            Assert.True(Cells(line).Length == width, line);
        }
    }

    [Fact]
    public void Everything_that_is_read_has_its_row()
    {
        string all = string.Join('\n', Rows.Select(r => r[0]));
        foreach (string kind in Enum.GetNames<PeftType>())
            Assert.Contains(kind, all, StringComparison.OrdinalIgnoreCase);
        foreach (string type in Kernels.Quantised.BlockType.All.Select(t => t.Name).Where(n => n is not ("Q8_1" or "Q8_K")))
            Assert.True(Named(type), $"{type} is in no row");

        bool Named(string type) => Regex.IsMatch(all, $@"\b{Regex.Escape(type)}\b", RegexOptions.CultureInvariant);
    }

    private static string[] Cells(string line) => [.. line.Trim('|', ' ').Split('|').Select(c => c.Trim())];

    [GeneratedRegex(@"`(\w+Tests(?:\.\w+)?)`")]
    private static partial Regex Test();
}
