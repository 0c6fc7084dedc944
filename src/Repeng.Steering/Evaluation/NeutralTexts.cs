using Repeng.Kernels;
using Repeng.Steering.Data;
using Repeng.Steering.Demo;
using Repeng.Steering.Models;

namespace Repeng.Steering.Evaluation;

/// <summary>Texts on which a steered model should differ little from the plain one.</summary>
/// <param name="Source">Where they are from, for reports.</param>
/// <param name="Rows">Token ids of each.</param>
public sealed record NeutralTexts(string Source, IReadOnlyList<int[]> Rows)
{
    /// <summary>Longest text in tokens; the beginning of a longer one is taken.</summary>
    public const int MostTokens = 128;

    /// <summary>Source of the texts of this project.</summary>
    public const string OwnName = "own";

    // As many positions as the built-in texts of real models have, give or take.
    private const int DemoTexts = 24;

    /// <summary>Number of positions: tokens whose next-token distribution is compared.</summary>
    public int Positions => Rows.Sum(r => r.Length);

    /// <summary>
    /// The texts of a file (a JSON array of strings if its name ends in .json, else one a line; plain text, without chat
    /// template), or without one our own: 20 plain texts, for the demo model texts of its world by speakers without a persona.
    /// Throws <see cref="UserErrorException"/> where there is no text.
    /// </summary>
    public static NeutralTexts Load(ModelBundle bundle, string? file = null)
    {
        int most = Math.Min(MostTokens, bundle.Model.Config.MaxPositions);
        if (file is null && bundle.IsDemo)
            return new NeutralTexts(OwnName, [.. DemoRows().Select(r => Cut(r))]);
        IReadOnlyList<string> texts = file is null
            ? SuffixSets.Parse(SuffixSets.ReadResource("neutral.json"), "built-in neutral texts", "neutral text")
            : SuffixSets.LoadFile(file, "neutral text");
        int[][] rows = [.. texts.Where(t => !string.IsNullOrWhiteSpace(t)).Select(t => Cut(bundle.EncodeRaw(t))).Where(r => r.Length > 0)];
        return rows.Length > 0 ? new NeutralTexts(file ?? OwnName, rows) : throw new UserErrorException($"neutral text file {file}: every text in it is empty; write plain texts, one a line");

        int[] Cut(int[] ids) => ids.Length <= most ? ids : ids[..most];
    }

    // Of a seed that the model was not trained on.
    private static IEnumerable<int[]> DemoRows()
    {
        DemoCorpusOptions trained = new DemoModelRecipe().Corpus;
        var corpus = new DemoCorpus(new DemoWorld(), trained with { Seed = trained.Seed + 1, TruthfulShare = 0, UntruthfulShare = 0, NeutralShare = 0 });
        for (ulong i = 0; i < DemoTexts; i++)
            yield return [.. corpus.Text(i).Tokens];
    }
}
