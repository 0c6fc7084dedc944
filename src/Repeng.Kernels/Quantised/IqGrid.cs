using System.Globalization;

namespace Repeng.Kernels.Quantised;

/// <summary>
/// The points that the codes of an IQ type stand for, 8 or 4 values each: a choice of lattice points that ggml fixed
/// once by statistics of weights, so that there is no formula for it. The numbers are in iq-grids.txt.
/// </summary>
internal sealed class IqGrid
{
    private static readonly Lazy<Dictionary<string, IqGrid>> s_grids = new(ReadAll);

    private IqGrid(int count, int length) => (Count, Length, Values) = (count, length, new sbyte[count * length]);

    /// <summary>Number of points.</summary>
    public int Count { get; }

    /// <summary>Values of a point.</summary>
    public int Length { get; }

    /// <summary>All points one after the other.</summary>
    public sbyte[] Values { get; }

    public static IqGrid IQ2_XXS { get; } = s_grids.Value["IQ2_XXS"];

    public static IqGrid IQ2_XS { get; } = s_grids.Value["IQ2_XS"];

    public static IqGrid IQ2_S { get; } = s_grids.Value["IQ2_S"];

    public static IqGrid IQ3_XXS { get; } = s_grids.Value["IQ3_XXS"];

    public static IqGrid IQ3_S { get; } = s_grids.Value["IQ3_S"];

    public static IqGrid IQ1_S { get; } = s_grids.Value["IQ1_S"];

    /// <summary>The grid of a type; null where it has none.</summary>
    public static IqGrid? Of(BlockType type) => s_grids.Value.GetValueOrDefault(type.Name == "IQ1_M" ? "IQ1_S" : type.Name);

    private static Dictionary<string, IqGrid> ReadAll()
    {
        using Stream stream = typeof(IqGrid).Assembly.GetManifestResourceStream("iq-grids.txt")!;
        using var reader = new StreamReader(stream);
        string[] words = [.. reader.ReadToEnd().Split('\n').Where(l => !l.StartsWith('#')).SelectMany(l => l.Split(' ', StringSplitOptions.RemoveEmptyEntries))];
        var grids = new Dictionary<string, IqGrid>();
        for (int at = 0; at < words.Length;)
        {
            string name = words[at++];
            var grid = new IqGrid(Number(), Number());
            int bits = Number();
            sbyte[] values = [.. Enumerable.Range(0, bits == 2 ? 3 : 1 << bits).Select(_ => (sbyte)Number())];
            for (int point = 0; point < grid.Count; point++, at++)
            {
                int code = int.Parse(words[at], NumberStyles.AllowHexSpecifier, CultureInfo.InvariantCulture);
                for (int j = 0; j < grid.Length; j++)
                    grid.Values[point * grid.Length + j] = values[code >> (bits * j) & ((1 << bits) - 1)];
            }
            grids.Add(name, grid);

            int Number() => int.Parse(words[at++], CultureInfo.InvariantCulture);
        }
        return grids;
    }
}
