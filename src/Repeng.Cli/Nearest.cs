namespace Repeng.Cli;

/// <summary>What a person probably meant.</summary>
public static class Nearest
{
    /// <summary>The candidate with the fewest edits, or null when none is near.</summary>
    public static string? To(string word, IEnumerable<string> candidates)
    {
        string? best = Of(word, candidates);
        return best is not null && Distance(word, best) <= Math.Max(2, word.Length / 3) ? best : null;
    }

    /// <summary>The candidate with the fewest edits, however many those are; null when there are no candidates.</summary>
    public static string? Of(string word, IEnumerable<string> candidates) => candidates.MinBy(c => Distance(word, c));

    private static int Distance(string a, string b)
    {
        int[] row = [.. Enumerable.Range(0, b.Length + 1)];
        for (int i = 1; i <= a.Length; i++)
        {
            int diagonal = row[0];
            row[0] = i;
            for (int j = 1; j <= b.Length; j++)
                (diagonal, row[j]) = (row[j], Math.Min(Math.Min(row[j], row[j - 1]) + 1, diagonal + (a[i - 1] == b[j - 1] ? 0 : 1)));
        }
        return row[^1];
    }
}
