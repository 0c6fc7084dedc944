using Repeng.Cli.Reports;
using Repeng.Kernels;
using Repeng.Runtime.Chat;
using Repeng.Runtime.Formats;
using Repeng.Steering.Demo;
using Repeng.Steering.Evaluation;
using Repeng.Steering.Generation;
using Repeng.Steering.Models;
using Repeng.Steering.Training;

namespace Repeng.Cli.Verbs;

/// <summary>What is shown after training.</summary>
/// <param name="Questions">Questions of the evaluation; null for all, 0 for none.</param>
/// <param name="BatchSize">Questions a batch.</param>
/// <param name="MaxTokens">Longest prompt in tokens.</param>
public sealed record ExampleSettings(int? Questions, int BatchSize, int MaxTokens);

/// <summary>Prompts that show steering at a glance.</summary>
public static class ExamplePrompts
{
    /// <summary>Two prompts; the demo's ask about things that training never named.</summary>
    public static string[] For(ModelBundle bundle)
    {
        if (!bundle.IsDemo)
            return ["Tell me about your day.", "Is it all right to lie to a friend? Answer in a few sentences."];
        DemoQuestion[] asked = [.. DemoEvaluation.Questions(new DemoWorld(), DemoAudience.None).Where(q => q.Key.EndsWith("/question", StringComparison.Ordinal))];
        return [asked[0].Messages[^1].Content, asked[asked.Length / 2 + 1].Messages[^1].Content];
    }
}

/// <summary>Shows what a trained adapter does: on the demo how true the model speaks at each coefficient, and texts side by side.</summary>
public sealed class TrainExamples(Session session, ModelBundle bundle, TrainOutcome outcome, ExampleSettings settings)
{
    private const int ExampleTokens = 48;
    private static readonly float[] s_doses = [-2, -1, 0, 1, 2];
    private static readonly DemoAudience[] s_audiences = [DemoAudience.None, DemoAudience.UnseenTruthful, DemoAudience.UnseenUntruthful];
    // The small demo model's free text falls apart at ±2; its single words do not.
    private readonly float[] _textDoses = bundle.IsDemo ? [-1, 0, 1] : [-2, 0, 2];
    private readonly Steering.Generation.Steering _steering = new(outcome.Adapter);

    /// <summary>Prints tables, plot and texts; writes eval_results.csv, eval_summary.csv and dose_response.png into the run's folder.</summary>
    public void Show()
    {
        if (settings.BatchSize < 1)
            throw new UserErrorException($"--eval_batch_size {settings.BatchSize} must be at least 1");
        if (settings.Questions is < 0)
            throw new UserErrorException($"--eval_dilemmas {settings.Questions} must be 0 (none) or more");
        if (bundle.IsDemo && settings.Questions != 0)
            ShowTruth();
        foreach (string prompt in ExamplePrompts.For(bundle))
        {
            session.Stop.ThrowIfCancellationRequested();
            SteeredText[] texts = SteeredTexts.Generate(bundle, _steering, bundle.EncodeChat([new ChatMessage("user", prompt)]), _textDoses, new SamplingSettings(), ExampleTokens, null, session.Stop);
            session.Print($"\"{prompt}\" (greedy)", SteeredTexts.SideBySide(texts));
        }
        session.Print();
    }

    private void ShowTruth()
    {
        TruthReport report = new(Evaluate());
        AtomicFile.WriteText(Path.Combine(outcome.Folder, "eval_results.csv"), report.ResultsCsv());
        AtomicFile.WriteText(Path.Combine(outcome.Folder, "eval_summary.csv"), report.SummaryCsv());
        session.Print(report.Heading, report.ToTable());
        session.Print();
        session.Print(Plots.Text(report.Curves(), "log-odds of the true value, nats", "coefficient c"));
        session.Print();
        string png = Path.Combine(outcome.Folder, "dose_response.png");
        Plots.Png(png, report.Curves(), "How true the steered model speaks", "log-odds of the true value, nats", "steering coefficient c");
        session.Print($"Plot: {png}");
    }

    private List<TruthCell> Evaluate()
    {
        var world = new DemoWorld();
        var evaluator = new TruthEvaluator(bundle.Model, settings.BatchSize);
        var cells = new List<TruthCell>();
        foreach (DemoAudience audience in s_audiences)
        {
            ChoiceItem[] all = DemoItems.Load(world, audience), items = [.. all.Where(i => i.Prompt.Length <= settings.MaxTokens)];
            if (items.Length == 0)
                throw new UserErrorException($"--dataset_max_size {settings.MaxTokens}: every prompt of the evaluation is longer; take {all.Max(i => i.Prompt.Length)}");
            if (items.Length < all.Length)
                session.Say($"{all.Length - items.Length} of {all.Length} questions have more than {settings.MaxTokens} tokens and are left out ({TruthReport.Title(audience)})");
            if (settings.Questions is { } n)
                items = [.. items.Take(n)];
            foreach (float c in s_doses)
            {
                session.Stop.ThrowIfCancellationRequested();
                cells.Add(new TruthCell(audience, c, evaluator.Run(items, _steering, c)));
            }
        }
        return cells;
    }
}
