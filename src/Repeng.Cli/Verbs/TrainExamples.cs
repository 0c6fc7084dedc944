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
    /// <summary>Two prompts; one for the demo, whose answers are shown apart.</summary>
    public static string[] For(ModelBundle bundle)
    {
        if (!bundle.IsDemo)
            return ["Tell me about your day.", "Is it all right to lie to a friend? Answer in a few sentences."];
        return [DemoLexicon.PlainInstructions[0]];
    }
}

/// <summary>Shows what a trained adapter does: on the demo how true the model speaks at each coefficient, and texts side by side.</summary>
public sealed class TrainExamples(Session session, ModelBundle bundle, TrainOutcome outcome, ExampleSettings settings)
{
    private const int ExampleTokens = 48, Answers = 12;
    private static readonly float[] s_doses = [-2, -1, 0, 1, 2];
    private static readonly DemoAudience[] s_audiences = [DemoAudience.None, DemoAudience.UnseenTruthful, DemoAudience.UnseenUntruthful];
    private static readonly float[] s_textDoses = [-2, 0, 2];
    // Seldom is the likeliest word a false one, so the demo's answers are drawn.
    private static readonly SamplingSettings s_sampled = new() { Sample = true, Seed = 42 };
    private readonly Steering.Generation.Steering _steering = new(outcome.Adapter);

    /// <summary>What the evaluation found, once it is shown; null where there was none.</summary>
    public TruthReport? Report { get; private set; }

    /// <summary>Prints tables, plot and texts; writes eval_results.csv, eval_summary.csv and dose_response.png into the run's folder.</summary>
    public void Show()
    {
        if (settings.BatchSize < 1)
            throw new UserErrorException($"--eval_batch_size {settings.BatchSize} must be at least 1");
        if (settings.Questions is < 0)
            throw new UserErrorException($"--eval_dilemmas {settings.Questions} must be 0 (none) or more");
        if (bundle.IsDemo && settings.Questions != 0)
            ShowTruth();
        if (bundle.IsDemo)
            ShowAnswers();
        foreach (string prompt in ExamplePrompts.For(bundle))
        {
            session.Stop.ThrowIfCancellationRequested();
            SteeredText[] texts = SteeredTexts.Generate(bundle, _steering, bundle.EncodeChat([new ChatMessage("user", prompt)]), s_textDoses, bundle.IsDemo ? s_sampled : new SamplingSettings(), ExampleTokens, null, session.Stop);
            session.Print($"\"{prompt}\" ({(bundle.IsDemo ? $"sampled, seed {s_sampled.Seed}" : "greedy")})", SteeredTexts.SideBySide(texts));
        }
        session.Print();
    }

    // One drawn word an answer: the demo's texts seldom answer a question in a sentence that can be told true from false at a glance.
    private void ShowAnswers()
    {
        var world = new DemoWorld();
        DemoQuestion[] all = [.. DemoEvaluation.Questions(world, DemoAudience.None).Where(q => q.Key.EndsWith("/question", StringComparison.Ordinal))];
        // A step that is no multiple of the number of properties, so that all of them are asked about.
        DemoQuestion[] asked = [.. all.Where((_, i) => i % (all.Length / Answers + 1) == 0)];
        Spectre.Console.Table table = Format.Table(["begun answer", .. s_textDoses.Select(c => $"c = {Format.Coefficient(c)}")]);
        foreach ((int i, DemoQuestion q) in asked.Index())
        {
            int[] prompt = DemoTokenizerFiles.EncodeChat(q.Chat, continueFinal: true);
            // A seed each: one for all would draw the same place in every distribution.
            SteeredText[] words = SteeredTexts.Generate(bundle, _steering, prompt, s_textDoses, s_sampled with { Seed = s_sampled.Seed + (ulong)i }, 1, null, session.Stop);
            table.Row([$"{q.AssistantPrefix} …", .. words.Select(w => $"{w.Text}{(w.Text == q.TrueValue ? " (true)" : "")}")]);
        }
        session.Print($"One drawn word after begun answers without a persona (temperature 1, seeds from {s_sampled.Seed})", table);
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
        Report = report;
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
