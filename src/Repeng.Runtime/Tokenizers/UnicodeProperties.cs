using System.Globalization;

namespace Repeng.Runtime.Tokenizers;

/// <summary>
/// Properties of code points by the versions of Unicode that the libraries behind tokenizer.json have (8.0 and 9.0, see
/// unicode-properties.txt): .NET's own tables are newer, and would cut accents off that the original leaves.
/// </summary>
internal static class UnicodeProperties
{
    private static readonly Lazy<Tables> s_tables = new(() => new Tables());

    /// <summary>The script of a code point that has none.</summary>
    public const int NoScript = 0;

    /// <summary>General category Mn of Unicode 8.0.</summary>
    public static bool IsNonSpacingMark(int codePoint) => codePoint >= 0x300 && s_tables.Value.NonSpacingMarks.Contains(codePoint);

    /// <summary>General category M of Unicode 9.0.</summary>
    public static bool IsMark(int codePoint) => codePoint >= 0x300 && s_tables.Value.Marks.Contains(codePoint);

    /// <summary>General category Cc, Cf or Co of Unicode 8.0.</summary>
    public static bool IsOther(int codePoint) => codePoint < 128 ? codePoint is < 32 or 127 : s_tables.Value.Others.Contains(codePoint);

    /// <summary>A number for the script of Unicode 9.0; equal for code points of the same script.</summary>
    public static int ScriptOf(int codePoint) => s_tables.Value.Scripts.ValueOf(codePoint);

    /// <summary>The number of a script by its name; <see cref="NoScript"/> when there is none of that name.</summary>
    public static int Script(string name) => s_tables.Value.ScriptNames.GetValueOrDefault(name, NoScript);

    /// <summary>Ranges in order, each with a number above 0.</summary>
    private sealed class RangeTable
    {
        private readonly int[] _firsts;
        private readonly int[] _lasts;
        private readonly int[] _values;

        public RangeTable(List<(int First, int Last, int Value)> ranges)
        {
            ranges.Sort();
            _firsts = [.. ranges.Select(r => r.First)];
            _lasts = [.. ranges.Select(r => r.Last)];
            _values = [.. ranges.Select(r => r.Value)];
        }

        /// <summary>The number of the range that holds the code point, or 0.</summary>
        public int ValueOf(int codePoint)
        {
            int at = Array.BinarySearch(_firsts, codePoint);
            if (at < 0)
                at = ~at - 1;
            return at >= 0 && codePoint <= _lasts[at] ? _values[at] : 0;
        }

        public bool Contains(int codePoint) => ValueOf(codePoint) != 0;
    }

    private sealed class Tables
    {
        public Tables()
        {
            List<(int, int, int)> scripts = [], nonSpacing = [], marks = [], others = [];
            using Stream stream = typeof(Tables).Assembly.GetManifestResourceStream("unicode-properties.txt")!;
            using var reader = new StreamReader(stream);
            while (reader.ReadLine() is { } line)
            {
                if (line.StartsWith('#'))
                    continue;
                string name = line[..line.IndexOf(' ', StringComparison.Ordinal)];
                switch (name)
                {
                    case "Mn.8": AddRanges(line, 1, nonSpacing); break;
                    case "M.9": AddRanges(line, 1, marks); break;
                    case "C.8": AddRanges(line, 1, others); break;
                    default:
                        ScriptNames.Add(name, ScriptNames.Count + 1);
                        AddRanges(line, ScriptNames.Count, scripts);
                        break;
                }
            }
            Scripts = new RangeTable(scripts);
            NonSpacingMarks = new RangeTable(nonSpacing);
            Marks = new RangeTable(marks);
            Others = new RangeTable(others);
        }

        public Dictionary<string, int> ScriptNames { get; } = [];

        public RangeTable Scripts { get; }

        public RangeTable NonSpacingMarks { get; }

        public RangeTable Marks { get; }

        public RangeTable Others { get; }

        private static void AddRanges(string line, int value, List<(int, int, int)> ranges)
        {
            foreach (string range in line.Split(' ').Skip(1))
            {
                int dash = range.IndexOf('-', StringComparison.Ordinal);
                int first = Hex(dash < 0 ? range : range[..dash]);
                ranges.Add((first, dash < 0 ? first : Hex(range[(dash + 1)..]), value));
            }

            static int Hex(string digits) => int.Parse(digits, NumberStyles.AllowHexSpecifier, CultureInfo.InvariantCulture);
        }
    }
}
