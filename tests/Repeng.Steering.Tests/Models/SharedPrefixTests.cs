using Repeng.Autograd;
using Repeng.Kernels;
using Repeng.Runtime;
using Repeng.Steering.Evaluation;
using Repeng.Steering.Generation;
using Repeng.Steering.Models;
using Repeng.Steering.Training;
using Repeng.Steering.Vectors;
using Repeng.Testing;

namespace Repeng.Steering.Tests.Models;

/// <summary>Passes in which texts share the tokens of their beginnings, beside passes over each text by itself.</summary>
public sealed class SharedPrefixTests
{
    private const double Tolerance = 1e-5;

    // Two beginnings, one within the other, ends of several lengths, a text twice, a text that is the beginning of another, and one that shares nothing.
    private static readonly int[][] s_texts =
    [
        [3, 17, 8, 8, 29, 1, 14, 22, 5], [3, 17, 8, 8, 29, 1, 14, 30], [3, 17, 8, 8, 2, 9], [3, 17, 8, 8, 29, 1, 14, 22, 5], [3, 17, 8, 8, 29, 1],
        [11, 4, 6], [3, 17, 8, 8, 2, 9, 9, 12, 13, 20, 21, 7, 7], [3, 17, 8, 8, 29, 1, 14, 22, 6],
    ];

    public static IEnumerable<TheoryDataRow<string>> Names => FamilyReferenceTests.Names;

    public static IEnumerable<TheoryDataRow<string>> GoldenNames => GoldenFiles.Folders("models", "config.json");

    [Theory]
    [MemberData(nameof(Names))]
    public void Outputs_and_gradients_are_those_of_texts_by_themselves(string name)
    {
        using var checkpoint = new TinyCheckpoint(FamilyReferenceTests.ConfigOf(name), seed: 9);
        using Device device = Device.Cpu(2);
        using DecoderModel model = checkpoint.Load(device);
        Same(model, name, gradients: true);
    }

    [Theory]
    [Trait("Category", "Golden")]
    [Trait("Golden", "models")]
    [MemberData(nameof(GoldenNames))]
    public void Outputs_are_those_of_texts_by_themselves_in_every_family(string name)
    {
        using Device device = Device.Cpu(2);
        using DecoderModel model = GoldenFiles.Load(device, Golden.Require("models", name));
        Same(model, name, gradients: false);
    }

    [Theory]
    [InlineData(0, 0f, false)]
    [InlineData(3, 0f, false)]
    [InlineData(0, 2f, false)]
    [InlineData(4, 1.5f, true)]
    public void Windows_and_soft_caps_see_the_whole_text(int window, float cap, bool experts)
    {
        using Device device = Device.Cpu(2);
        using DecoderModel model = TinyDecoder.Load(device, change: c => c with { Windows = [window, 0, window, 0], AttentionSoftCap = cap }, experts: experts);
        Same(model, $"window {window}, cap {cap}", gradients: true);
    }

    [Fact]
    public void Each_beginning_is_one_path_of_the_trie()
    {
        var random = new Random(4);
        for (int round = 0; round < 200; round++)
        {
            int[][] rows = [.. Enumerable.Range(0, 1 + random.Next(12)).Select(_ => Enumerable.Range(0, 1 + random.Next(9)).Select(_ => random.Next(2)).ToArray())];
            int apart = random.Next(3);
            TokenBatch batch = TokenBatch.Pad(rows, 0);
            SharedPrefixes texts = SharedPrefixes.Of(batch, apart);
            // Beginnings that lie before the last tokens of a text are shared; the last tokens are the text's own.
            int expected = rows.SelectMany(r => Enumerable.Range(1, Math.Max(0, r.Length - apart)).Select(n => string.Join(' ', r[..n]))).Distinct().Count() + rows.Sum(r => Math.Min(apart, r.Length));
            Assert.Equal(expected <= 0.9 * batch.Ids.Length, texts.Shared);
            Assert.Equal(texts.Shared ? expected : batch.Ids.Length, texts.Computed);
            var owners = new Dictionary<int, string>();
            for (int b = 0; b < rows.Length; b++)
                for (int t = batch.Starts[b]; t < batch.Length; t++)
                {
                    int row = texts.Row(b, t), at = t - batch.Starts[b];
                    Assert.Equal(batch.Ids[b * batch.Length + t], texts.Tokens.Ids[row]);
                    string beginning = string.Join(' ', rows[b][..(at + 1)]);
                    Assert.True(owners.TryAdd(row, beginning) || owners[row] == beginning && texts.Shared && t < batch.Length - apart);
                    if (texts.Shared)
                        Assert.Equal(at, texts.Positions[row]);
                }
            Assert.Equal(texts.Shared ? texts.Computed : rows.Sum(r => r.Length), owners.Count);
        }
    }

    [Fact]
    public void Some_of_the_texts_go_on_alone_and_all_of_them_several_times_over()
    {
        var random = new Random(6);
        int shared = 0, plain = 0;
        for (int round = 0; round < 200; round++)
        {
            int[][] rows = [.. Enumerable.Range(0, 2 + random.Next(8)).Select(_ => Enumerable.Range(0, 1 + random.Next(9)).Select(_ => random.Next(2)).ToArray())];
            SharedPrefixes texts = SharedPrefixes.Of(TokenBatch.Pad(rows, 0));
            int[] chosen = [.. Enumerable.Range(0, rows.Length).Where(i => i == 0 || random.Next(2) == 0)];
            (SharedPrefixes some, int[] from) = texts.Select(chosen);
            Assert.Equal(some.Computed, from.Length);
            (shared, plain) = (shared + (texts.Shared && some.Shared ? 1 : 0), plain + (texts.Shared && !some.Shared ? 1 : 0));
            for (int i = 0; i < chosen.Length; i++)
                for (int t = texts.Texts.Starts[chosen[i]]; t < texts.Texts.Length; t++)
                    Assert.Equal(texts.Row(chosen[i], t), from[some.Row(i, t)]);

            SharedPrefixes twice = texts.Repeat(2);
            Assert.Equal((texts.Shared, 2 * texts.Computed), (twice.Shared, twice.Computed));
            for (int b = 0; b < 2 * rows.Length; b++)
                for (int t = twice.Texts.Starts[b]; t < twice.Texts.Length; t++)
                    Assert.Equal(texts.Row(b % rows.Length, t) + (b / rows.Length * texts.Computed), twice.Row(b, t));
        }
        Assert.True(shared > 10 && plain > 10, $"{shared} shared, {plain} plain");
    }

    [Fact]
    public void Texts_twice_over_have_the_same_values_twice()
    {
        using Device device = Device.Cpu(2);
        using DecoderModel model = TinyDecoder.Load(device);
        SharedPrefixes texts = SharedPrefixes.Of(TokenBatch.Pad(s_texts, 0));
        Assert.True(texts.Shared && texts.Repeat(2).Shared);
        using var tape = new Tape(device, record: false);
        float[] once = model.Forward(new ForwardContext(tape, texts)).ToArray(), twice = model.Forward(new ForwardContext(tape, texts.Repeat(2))).ToArray();
        Close.To(Tolerance, twice[..once.Length], once, "first time");
        Close.To(Tolerance, twice[once.Length..], once, "second time");
    }

    [Fact]
    public void Padding_has_no_row_and_a_text_that_is_too_short_is_refused()
    {
        SharedPrefixes texts = SharedPrefixes.Of(TokenBatch.Pad(s_texts, 0));
        Assert.True(texts.Shared);
        Assert.Throws<ArgumentException>(() => texts.Row(5, 0));
        string error = Assert.Throws<UserErrorException>(() => texts.RowsFromEnd(4)).Message;
        Assert.Contains("token 4 from the end", error, StringComparison.Ordinal);
        Assert.Contains("has 3", error, StringComparison.Ordinal);
    }

    [Fact]
    public void What_is_kept_of_texts_that_share_is_not_given_for_the_same_texts_by_themselves()
    {
        using Device device = Device.Cpu(1);
        using DecoderModel model = TinyDecoder.Load(device);
        TokenBatch batch = TokenBatch.Pad(s_texts, 0);
        var prefix = new PlainPrefix(model, 1);
        foreach (SharedPrefixes texts in (SharedPrefixes[])[SharedPrefixes.Of(batch), SharedPrefixes.Plain(batch), SharedPrefixes.Of(batch)])
        {
            using var tape = new Tape(device, record: false);
            Assert.Equal(texts.Computed, prefix.Enter(tape, texts, Steering.Generation.Steering.None)!.Rows);
        }
    }

    [Fact]
    public void Values_of_padding_cannot_be_asked_for()
    {
        using Device device = Device.Cpu(1);
        using DecoderModel model = TinyDecoder.Load(device);
        using var tape = new Tape(device, record: false);
        Assert.Throws<ArgumentException>(() => model.Forward(new ForwardContext(tape, SharedPrefixes.Of(TokenBatch.Pad(s_texts, 0))) { EagerPadding = true }));
    }

    [Theory]
    [InlineData(VectorNeeds.Hidden, 1)]
    [InlineData(VectorNeeds.Hidden | VectorNeeds.LogProb, 2)]
    [InlineData(VectorNeeds.Hidden | VectorNeeds.Gradients, null)]
    public void Representations_of_pairs_that_share_a_persona_are_those_of_each_pair(VectorNeeds needs, int? token)
    {
        using Device device = Device.Cpu(2);
        using DecoderModel model = TinyDecoder.Load(device);
        int[] honest = [5, 6, 7, 8, 9, 10, 11], liar = [5, 6, 7, 12, 13, 14, 15, 16];
        TokenPair[] pairs = [.. new int[][] { [20, 21, 22], [20, 21, 23, 24], [20, 30, 31] }.Select(end => new TokenPair([.. honest, .. end], [.. liar, .. end]))];
        string[] modules = [model.Blocks[1].Path, model.Blocks[3].Path, "model.layers.2.self_attn.q_norm"];
        RepresentationSettings settings = new() { BatchRows = 6, TokenFromEnd = token };
        long before = model.TokensRun;
        using Representations all = Representations.Collect(model, modules, pairs, 0, needs, settings);
        // The system prompt once, each persona's rest once, each end by personas: 3 + 4 + 5, and 2 · (3 + 2 + 2) of the ends; with
        // gradients the two tokens at the end of a text are its own: 21 of the first and 20 of the third then stand apart.
        int computed = needs.HasFlag(VectorNeeds.Gradients) ? 12 + 2 * (1 + 2 + 1 + 2 + 2) : 12 + 14;
        Assert.Equal(computed, all.TokensComputed);
        Assert.Equal(4L * computed, model.TokensRun - before);
        int width = all.Layers[modules[2]].Width;
        Assert.Equal(16, width);
        for (int p = 0; p < pairs.Length; p++)
        {
            using Representations one = Representations.Collect(model, modules, [pairs[p]], 0, needs, settings with { SharePrefixes = false });
            Assert.Equal(2 * Math.Max(pairs[p].Positive.Length, pairs[p].Negative.Length), one.TokensComputed);
            foreach (string module in modules)
            {
                Close.To(Tolerance, Part(all.Layers[module].Hidden!, p), Part(one.Layers[module].Hidden!, 0), module);
                if (needs.HasFlag(VectorNeeds.Gradients))
                    Close.To(5 * Tolerance, Part(all.Layers[module].Gradients!, p), Part(one.Layers[module].Gradients!, 0), $"gradients of {module}");
            }
            if (needs != VectorNeeds.Hidden)
                Close.To(Tolerance, [.. all.Layers[modules[0]].LogProb![(2 * p)..(2 * p + 2)].Select(x => (float)x)], [.. one.Layers[modules[0]].LogProb!.Select(x => (float)x)], "log-probabilities");
        }

        static float[] Part(RowSource rows, int pair) => [.. rows.ToArray()[(2 * pair * rows.Width)..(2 * (pair + 1) * rows.Width)].Select(x => (float)x)];
    }

    [Fact]
    public void Answers_behind_one_prompt_share_it()
    {
        using Device device = Device.Cpu(2);
        using DecoderModel model = TinyDecoder.Load(device);
        var vector = new ControlVector("qwen3", [KeyValuePair.Create("1", new Direction([.. Enumerable.Range(0, 16).Select(i => 0.1f * i - 0.7f)], 1))]);
        using var control = new VectorControl(model, vector);
        var steering = new Steering.Generation.Steering(Vector: control);
        ChoiceItem[] items = [new("a", [1, 2, 3, 4, 5, 6], [[7, 8], [9]], [[10, 11, 12]]), new("b", [1, 2, 3, 4, 13], [[7, 8]], [[9, 9]])];
        var evaluator = new TruthEvaluator(model, 64) { MeasureInput = true };
        long before = model.TokensRun;
        ChoiceResult[] both = evaluator.Run(items, steering, 0.5f);
        // The prompts' tokens, 6 and the one that is the second's own, and those of the answers.
        Assert.Equal(4 * (6 + 1 + 2 + 1 + 3 + 2 + 2), model.TokensRun - before);
        foreach ((ChoiceItem item, ChoiceResult result) in items.Zip(both))
        {
            double[] right = [.. item.True.Select(a => Answer(item.Prompt, a))], wrong = [.. item.False.Select(a => Answer(item.Prompt, a))];
            Assert.Equal(Math.Log(right.Sum()) - Math.Log(wrong.Sum()), result.LogOdds, 1e-4);
            Assert.Equal(right.Sum() + wrong.Sum(), result.Mass, 1e-5);
            Assert.Equal(-LogProbs(item.Prompt).Average(), result.InputNll, 1e-5);
        }

        double Answer(int[] prompt, int[] answer) => Math.Exp(LogProbs([.. prompt, .. answer])[^answer.Length..].Sum());

        double[] LogProbs(int[] text)
        {
            using var tape = new Tape(device, record: false);
            ForwardContext context = steering.Context(tape, new TokenBatch(1, text.Length, text, [0]), [0.5f]);
            return [.. model.LabelLogProb(context, model.Forward(context), [.. Enumerable.Range(0, text.Length - 1)], text[1..]).ToArray().Select(x => (double)x)];
        }
    }

    // Residual streams of all blocks, logits and (of the sum of all label log-probabilities) gradients of every parameter.
    private static void Same(DecoderModel model, string name, bool gradients)
    {
        TokenBatch batch = TokenBatch.Pad(s_texts, 0);
        SharedPrefixes texts = SharedPrefixes.Of(batch);
        Assert.Equal(9 + 1 + 2 + 3 + 7 + 1, texts.Computed);
        (int B, int T)[] real = [.. Enumerable.Range(0, batch.Batch).SelectMany(b => Enumerable.Range(batch.Starts[b], batch.Length - batch.Starts[b]).Select(t => (b, t)))];
        (List<float[]> shared, Dictionary<string, float[]> sharedGradients) = Run(tape => new ForwardContext(tape, texts) { KeepHiddenStates = true }, texts.Row);
        (List<float[]> plain, Dictionary<string, float[]> plainGradients) = Run(tape => new ForwardContext(tape, batch) { KeepHiddenStates = true }, (b, t) => b * batch.Length + t);
        for (int i = 0; i < plain.Count; i++)
            Close.To(Tolerance, shared[i], plain[i], $"{name}: {(i + 1 < plain.Count ? $"hidden states {i}" : "logits")}");
        double largest = plainGradients.Count == 0 ? 0 : plainGradients.Values.Max(g => g.Max(Math.Abs));
        foreach ((string parameter, float[] expected) in plainGradients)
            // A gradient that is 0 by the mathematics is rounding.
            if (expected.Max(Math.Abs) > 1e-5 * largest)
                Close.To(5 * Tolerance, sharedGradients[parameter], expected, $"{name}: gradient of {parameter}");

        (List<float[]>, Dictionary<string, float[]>) Run(Func<Tape, ForwardContext> pass, Func<int, int, int> row)
        {
            if (gradients)
                model.RequireGradients(true);
            using var tape = new Tape(model.Device, record: gradients);
            ForwardContext context = pass(tape);
            Tensor last = model.Forward(context);
            int[] at = [.. real.Select(r => row(r.B, r.T))];
            List<float[]> values = [.. context.HiddenStates.Append(model.Logits(context, last)).Select(h => tape.GatherRows(h, tape.New(at, at.Length)).ToArray())];
            if (!gradients)
                return (values, []);
            (int B, int T)[] labelled = [.. real.Where(r => r.T + 1 < batch.Length)];
            Tensor logProb = model.LabelLogProb(context, last, [.. labelled.Select(r => row(r.B, r.T))], [.. labelled.Select(r => batch.Ids[r.B * batch.Length + r.T + 1])]);
            tape.Backward(tape.Sum(logProb));
            Dictionary<string, float[]> found = model.Parameters.Where(p => !p.Value.Grad.IsEmpty).ToDictionary(p => p.Key, p => p.Value.GradToArray());
            model.RequireGradients(false);
            return (values, found);
        }
    }
}
