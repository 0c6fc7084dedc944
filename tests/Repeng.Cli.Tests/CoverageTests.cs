using System.Globalization;
using System.Text.RegularExpressions;
using Repeng.Testing;

namespace Repeng.Cli.Tests;

/// <summary>The page of what is built names rows, files and tests that exist.</summary>
public sealed partial class CoverageTests
{
    private const int Rows = 80;

    private static readonly string s_page = File.ReadAllText(Path.Combine(Golden.Repository, "docs", "coverage.md"));

    [Fact]
    public void Every_feature_stands_in_the_table_once()
    {
        int[] rows = [.. Row().Matches(s_page).Select(m => int.Parse(m.Groups[1].ValueSpan, CultureInfo.InvariantCulture))];
        Assert.Equal(Enumerable.Range(1, Rows), rows);
    }

    [Fact]
    public void Every_source_file_and_test_that_it_names_exists()
    {
        HashSet<string> sources = TestNames.Sources("src"), tests = TestNames.Tests();
        string[] missing =
        [
            .. Source().Matches(s_page).Select(m => m.Groups[1].Value).Where(f => !sources.Contains(f)),
            .. Test().Matches(s_page).Select(m => m.Groups[1].Value).Where(t => !tests.Contains(t)),
        ];
        Assert.Empty(missing);
    }

    [Fact]
    public void What_is_built_names_its_source_and_its_test()
    {
        foreach (string line in s_page.Split('\n').Where(l => Row().IsMatch(l)))
        {
            string[] cells = [.. line.Split('|').Select(c => c.Trim())];
            // Number, feature, state, source, test between bars.
            Assert.Equal(7, cells.Length);
            bool named = Source().IsMatch(cells[4]) && Test().IsMatch(cells[5]);
            Assert.True(named || !cells[3].StartsWith("built", StringComparison.Ordinal), line);
        }
    }

    [GeneratedRegex(@"^\| (\d+) \|", RegexOptions.Multiline)]
    private static partial Regex Row();

    [GeneratedRegex(@"`([\w.]+\.cs)`")]
    private static partial Regex Source();

    [GeneratedRegex(@"`(\w+Tests)`")]
    private static partial Regex Test();
}
