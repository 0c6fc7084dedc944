using Repeng.Autograd;
using Repeng.Steering.Data;
using Repeng.Steering.Evaluation;
using Repeng.Steering.Generation;
using Repeng.Steering.Models;

namespace Repeng.Steering.Tests.RealModel;

/// <summary>Answers in words: where they decide and what the logits there say.</summary>
[Trait("Category", "Golden")]
[Trait("Golden", "smollm2")]
public sealed class GeneratedAnswersTests(RealModel real) : IClassFixture<RealModel>
{
    [Fact]
    public void An_answer_is_scored_by_the_raw_logits_at_the_token_that_decides()
    {
        ModelBundle bundle = real.Bundle;
        ChoiceItem[] items = [.. EvalItems.BinaryToGenerate(bundle, [.. BinaryQuestions.Items.Take(3)])];
        string[] before = ["I think so. Final choice:", "Final choice: Yes? Rather not. Final choice:", ""];
        int[][] answers = [.. before.Select((b, i) => bundle.Tokenizer.Encode(i < 2 ? b + " No. Well." : "I do not know.", addSpecialTokens: false))];

        ChoiceResult[] results = new GeneratedAnswers(bundle, new SamplingSettings(), 8, 1, 4).Score(items, answers, Repeng.Steering.Generation.Steering.None, 0);

        Assert.True(double.IsNaN(results[2].LogOdds));
        for (int i = 0; i < 2; i++)
        {
            int[] text = [.. items[i].Prompt, .. bundle.Tokenizer.Encode(before[i], addSpecialTokens: false)];
            using var tape = new Tape(bundle.Model.Device, record: false);
            float[] logits = bundle.Model.Logits(tape, tape.SliceRows(bundle.Model.Forward(new ForwardContext(tape, TokenBatch.Pad([text], 0))), text.Length - 1, 1)).ToArray();
            (double ratio, double mass) = BinaryLogRatio.Measure(logits, [.. items[i].True.Select(t => t[0])], [.. items[i].False.Select(t => t[0])]);
            Assert.Equal(ratio, results[i].LogOdds, 1e-3);
            Assert.Equal(mass, results[i].Mass, 1e-3);
        }
    }
}
