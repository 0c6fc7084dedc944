using Repeng.Autograd;
using Repeng.Kernels;
using Repeng.Runtime;
using Repeng.Steering.Evaluation;
using Repeng.Steering.Generation;
using Repeng.Steering.Models;
using Repeng.Steering.Vectors;

namespace Repeng.Steering.Tests.Evaluation;

/// <summary>KL on neutral texts and the coefficient that meets a budget of it.</summary>
public sealed class CalibrationTests
{
    [Theory]
    [InlineData(0.25, 1, 2)]
    [InlineData(1, 1, 1)]
    [InlineData(1e-6, 1, 1000)]
    [InlineData(4e4, 1, 0.005)]
    [InlineData(3, 0.1, 0.18257418583505536)]
    public void A_parabola_meets_its_budget_to_a_hundredth(double a, double budget, double expected)
    {
        int calls = 0;
        BudgetResult r = BudgetSearch.Find(c =>
        {
            calls++;
            return a * c * c;
        }, budget);
        Assert.Equal(BudgetOutcome.Reached, r.Outcome);
        Assert.Equal(expected, r.Coefficient, 0.006 * expected);
        Assert.Equal(a * r.Coefficient * r.Coefficient, r.Value, 1e-12);
        Assert.InRange(r.Value, 0.99 * budget, 1.01 * budget);
        Assert.Null(r.Fall(budget));
        Assert.Equal(calls, r.Points.Count);
        Assert.InRange(calls, 1, 24);
    }

    [Theory]
    [InlineData(0.25)]
    [InlineData(1e-6)]
    [InlineData(4e4)]
    public void A_guess_from_the_square_begins_near_the_budget(double a)
    {
        int calls = 0;
        double Curve(double c)
        {
            calls++;
            return a * c * c;
        }

        double start = BudgetSearch.Guess(Curve, 1);
        Assert.InRange(a * start * start, 0.25, 4);
        BudgetResult r = BudgetSearch.Find(Curve, 1, start, tolerance: 0.05);
        Assert.InRange(r.Value, 0.95, 1.05);
        Assert.InRange(calls, 1, 9);
        // Nothing and infinity say on which side the budget is, not how far.
        Assert.InRange(BudgetSearch.Guess(c => c < 100 ? 0 : 1, 1), 100, 10000);
        Assert.InRange(BudgetSearch.Guess(c => c < 0.001 ? 1 : double.PositiveInfinity, 1), 1e-5, 0.001);
    }

    [Fact]
    public void Curves_that_stay_on_one_side_or_jump_are_told_apart()
    {
        BudgetResult below = BudgetSearch.Find(c => 0.5 * Math.Tanh(c), 1), above = BudgetSearch.Find(_ => 3, 1);
        Assert.Equal((BudgetOutcome.NeverReached, double.NaN, 0.5), (below.Outcome, below.Coefficient, below.Value));
        Assert.InRange(below.Points[^1].Coefficient, BudgetSearch.Reach / 4, BudgetSearch.Reach);
        Assert.Equal((BudgetOutcome.AlwaysExceeded, double.NaN, 3.0), (above.Outcome, above.Coefficient, above.Value));
        Assert.InRange(above.Points[0].Coefficient, 1 / BudgetSearch.Reach, 4 / BudgetSearch.Reach);

        // Logits overflow before the budget is met: the last coefficient below the jump.
        BudgetResult jump = BudgetSearch.Find(c => c < 3 ? c / 10 : double.PositiveInfinity, 1);
        Assert.Equal(BudgetOutcome.Reached, jump.Outcome);
        Assert.InRange(jump.Coefficient, 3 * (1 - 2e-4), 3);
        Assert.Equal(jump.Coefficient / 10, jump.Value, 1e-12);
    }

    [Fact]
    public void A_curve_that_falls_in_between_is_reported_and_the_smaller_crossing_taken()
    {
        // Up to 1.5 at c = 2, down to 0.5 at 4, up again.
        BudgetResult r = BudgetSearch.Find(c => c <= 2 ? 0.75 * c : c <= 4 ? 2.5 - 0.5 * c : c - 3.5, 1, start: 4);
        Assert.Equal(4.5, r.Coefficient, 0.05);
        Assert.Null(r.Fall(1));
        BudgetResult both = BudgetSearch.Find(c => c <= 2 ? 0.75 * c : c <= 4 ? 2.5 - 0.5 * c : c - 3.5, 1, start: 2.5);
        Assert.Equal(4 / 3.0, both.Coefficient, 0.02);
        (BudgetPoint From, BudgetPoint To)? fall = BudgetSearch.Find(c => c <= 2 ? 0.9 * c / 2 : c <= 4 ? 0.5 : c, 1).Fall(1);
        Assert.Equal((2.0, 4.0), (fall!.Value.From.Coefficient, fall.Value.To.Coefficient));
    }

    [Theory]
    [InlineData(0)]
    [InlineData(-1)]
    [InlineData(double.NaN)]
    [InlineData(double.PositiveInfinity)]
    public void A_budget_that_is_no_number_above_zero_is_refused(double budget) =>
        Assert.Contains("above 0", Assert.Throws<UserErrorException>(() => BudgetSearch.Find(c => c, budget)).Message);

    [Fact]
    public void Percentiles_are_numpys()
    {
        // numpy.percentile([4, 1, 3, 2], 95) and of 0 … 20.
        Assert.Equal(3.85, KlStatistics.Percentile([4, 1, 3, 2], 0.95), 1e-12);
        Assert.Equal(19, KlStatistics.Percentile([.. Enumerable.Range(0, 21).Select(i => (double)(20 - i))], 0.95), 1e-12);
        Assert.Equal(7, KlStatistics.Percentile([7], 0.95));
        Assert.Equal(2, KlStatistics.Percentile([1, 2, 3, double.PositiveInfinity], 1 / 3.0), 1e-12);
        Assert.Equal(double.PositiveInfinity, KlStatistics.Percentile([1, double.PositiveInfinity, double.PositiveInfinity], 0.95));
        Assert.Throws<ArgumentException>(() => KlStatistics.Percentile([], 0.95));
    }

    [Fact]
    public void Divergence_agrees_with_probabilities_in_double()
    {
        var random = new Random(5);
        for (int n = 2; n < 200; n += 37)
        {
            float[] p = [.. Enumerable.Range(0, n).Select(_ => (float)(8 * random.NextDouble()))], q = [.. Enumerable.Range(0, n).Select(_ => (float)(8 * random.NextDouble() + 90))];
            double[] a = Softmax(p), b = Softmax(q);
            Assert.Equal(a.Zip(b, (x, y) => x * Math.Log(x / y)).Sum(), NeutralKl.Divergence(p, q), 1e-10);
            Assert.Equal(0, NeutralKl.Divergence(p, p), 1e-12);
        }
        Assert.Equal(double.PositiveInfinity, NeutralKl.Divergence([1, 2], [float.NaN, 2]));

        static double[] Softmax(float[] x)
        {
            double sum = x.Sum(v => Math.Exp(v));
            return [.. x.Select(v => Math.Exp(v) / sum)];
        }
    }

    [Fact]
    public void Positions_are_those_of_every_text_alone_and_the_budget_is_met()
    {
        using Device device = Device.Cpu();
        using ModelBundle bundle = ModelBundle.Load(device, ModelBundle.Demo);
        DecoderModel model = bundle.Model;
        int d = model.Config.HiddenSize;
        (string Layer, int Width)[] layers = [("1", d), ("4", d), (model.Config.HeadPath, model.Config.VocabSize)];
        using var control = new VectorControl(model, new ControlVector("qwen3", layers.Select((l, k) =>
            KeyValuePair.Create(l.Layer, new Direction([.. Enumerable.Range(0, l.Width).Select(i => MathF.Sin(i * (k + 1)))])))));
        var steering = new Repeng.Steering.Generation.Steering(null, control);
        NeutralTexts texts = NeutralTexts.Load(bundle);
        int[][] rows = [.. texts.Rows.Take(5).OrderBy(r => r.Length)];
        var few = new NeutralKl(model, new NeutralTexts("test", rows), batchSize: 3);
        Assert.All(few.Positions(steering, 0), k => Assert.Equal(0, k));
        double[] found = few.Positions(steering, 0.7f), expected = [.. rows.SelectMany(r => Alone(r, 0.7f))];
        Assert.Equal(expected.Length, found.Length);
        Assert.All(expected.Zip(found), k => Assert.Equal(k.First, k.Second, 1e-4));
        KlStatistics s = few.Measure(steering, 0.7f);
        Assert.Equal((found.Length, found.Max()), (s.Positions, s.Max));
        Assert.Equal(found.Average(), s.Mean, 1e-12);

        // What enters the first steered block is the same for all, whether it is run again or kept.
        var prefix = new PlainPrefix(model, 1);
        var kept = new NeutralKl(model, new NeutralTexts("test", rows), batchSize: 3, prefix);
        Assert.Equal(found, kept.Positions(steering, 0.7f));
        Assert.Equal(few.Positions(steering, -2), kept.Positions(steering, -2));
        Assert.Throws<ArgumentException>(() => new NeutralKl(model, new NeutralTexts("test", rows), batchSize: 3, new PlainPrefix(model, 2)).Positions(steering, 0.7f));
        ChoiceItem[] items = [.. Repeng.Steering.Demo.DemoItems.Load(new(), Repeng.Steering.Demo.DemoAudience.None).Take(6)];
        ChoiceResult[] Scored(PlainPrefix? p, float c) => new TruthEvaluator(model, 4) { MeasureInput = true, Prefix = p }.Run(items, steering, c);
        foreach (float c in new[] { 1, 1, -1f })
            Assert.Equal(Scored(null, c), Scored(prefix, c));

        Calibration calibration = Calibration.Run(few, steering, 0.5, "demo");
        Assert.InRange(few.Measure(steering, (float)calibration.Coefficients.Plus).P95, 0.494, 0.506);
        Assert.InRange(few.Measure(steering, (float)calibration.Coefficients.Minus).P95, 0.494, 0.506);
        Assert.True(calibration.Coefficients.Minus < 0 && calibration.Coefficients.Plus > 0);

        Calibration quick = Calibration.Run(few, steering, 0.5, "demo", tolerance: 0.05, guess: true);
        Assert.Equal(calibration.Coefficients.Plus, quick.Coefficients.Plus, 0.05 * calibration.Coefficients.Plus);
        Assert.Equal(calibration.Coefficients.Minus, quick.Coefficients.Minus, -0.05 * calibration.Coefficients.Minus);

        UsableRange range = UsableRange.Find(model, items, steering);
        Assert.True(range.Plus.Outcome == BudgetOutcome.Reached && range.Minus.Outcome == BudgetOutcome.Reached && range.Questions == 6);

        double[] Alone(int[] ids, float c)
        {
            float[] Logits(float at)
            {
                using var tape = new Tape(device, record: false);
                ForwardContext context = steering.Context(tape, TokenBatch.Pad([ids], 0), [at]);
                return model.Logits(context, model.Forward(context)).ToArray();
            }
            float[] p = Logits(0), q = Logits(c);
            int v = model.Config.VocabSize;
            return [.. Enumerable.Range(0, ids.Length).Select(t => NeutralKl.Divergence(p.AsSpan(t * v, v), q.AsSpan(t * v, v)))];
        }
    }

    [Theory]
    [InlineData("a.txt", "\n  \n", "no neutral text in it")]
    [InlineData("a.json", "[]", "the array is empty")]
    [InlineData("a.json", "[\"\", \"  \"]", "every text in it is empty")]
    [InlineData("a.json", "{}", "an array of strings is needed")]
    public void Files_without_a_text_are_refused(string name, string content, string said)
    {
        string folder = Directory.CreateTempSubdirectory("repeng-neutral").FullName, path = Path.Combine(folder, name);
        try
        {
            File.WriteAllText(path, content);
            using Device device = Device.Cpu();
            using ModelBundle bundle = ModelBundle.Load(device, ModelBundle.Demo);
            Assert.Contains(said, Assert.Throws<UserErrorException>(() => NeutralTexts.Load(bundle, path)).Message);
            File.WriteAllText(path, name.EndsWith("json", StringComparison.Ordinal) ? "[\"the apple is made of wood\"]" : "the apple is made of wood\n\nthe ball is red\n");
            Assert.Equal(name.EndsWith("json", StringComparison.Ordinal) ? 1 : 2, NeutralTexts.Load(bundle, path).Rows.Count);
        }
        finally
        {
            Directory.Delete(folder, recursive: true);
        }
    }
}
