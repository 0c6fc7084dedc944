using Repeng.Steering.Generation;
using Repeng.Steering.Models;
using Spectre.Console;

namespace Repeng.Cli.Reports;

/// <summary>What a model said at a coefficient.</summary>
/// <param name="Coefficient">c.</param>
/// <param name="Text">New text without special tokens.</param>
/// <param name="Tokens">New tokens, the end token included.</param>
/// <param name="Ended">Whether the model ended the text itself.</param>
public sealed record SteeredText(float Coefficient, string Text, int Tokens, bool Ended);

/// <summary>Texts at several coefficients, generated in one batch and shown side by side.</summary>
public static class SteeredTexts
{
    /// <summary>One text a coefficient, in one batch.</summary>
    public static SteeredText[] Generate(ModelBundle bundle, Steering.Generation.Steering steering, int[] prompt, float[] coefficients, SamplingSettings sampling, int maxNewTokens, Action<int, int>? onToken, CancellationToken stop)
    {
        int[] stops = bundle.StopIds;
        int[][] made = new Generator(bundle.Model).Generate([.. coefficients.Select(_ => prompt)], coefficients, steering, sampling, maxNewTokens, stops, bundle.PadId, onToken, stop);
        return [.. made.Select((ids, row) =>
        {
            bool ended = ids.Length > 0 && stops.Contains(ids[^1]);
            return new SteeredText(coefficients[row], bundle.Tokenizer.Decode(ended ? ids.AsSpan(0, ids.Length - 1) : ids, skipSpecialTokens: true).Trim(), ids.Length, ended);
        })];
    }

    /// <summary>A table with a column for each coefficient.</summary>
    public static Table SideBySide(IReadOnlyList<SteeredText> texts)
    {
        Table table = Format.Table([.. texts.Select(t => $"c = {Format.Coefficient(t.Coefficient)}")]);
        table.Row([.. texts.Select(t => t.Text + (t.Ended ? "" : " …"))]);
        return table;
    }
}
