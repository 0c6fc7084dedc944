using System.Text.Json.Nodes;
using Repeng.Runtime;
using Repeng.Runtime.Chat;
using Repeng.Steering.Data;
using Repeng.Steering.Evaluation;
using Repeng.Steering.Generation;
using Repeng.Steering.Models;
using Repeng.Steering.Training;

namespace Repeng.Cli.Tests;

/// <summary>Thinking models from training texts to scored answers, on a small random model whose template thinks.</summary>
public sealed class ThinkingTests : IDisposable
{
    private const string Template = "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n' }}{% endfor %}"
        + "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% if enable_thinking is defined and enable_thinking is false %}{{ '<think>\\n\\n</think>\\n\\n' }}{% endif %}{% endif %}";

    private const string Opening = "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n' }}{% endfor %}"
        + "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n<think>\\n' }}{% endif %}";

    private static readonly string[] s_tokens = ["<think>", "</think>", "Final choice: Yes", "Final choice: No"];
    private readonly Workshop _shop = new();

    public void Dispose() => _shop.Dispose();

    [Fact]
    public void Training_texts_stand_inside_of_the_block()
    {
        using Device device = Device.Cpu();
        using ModelBundle bundle = ModelBundle.Load(device, Model(Template));
        (string, string)[] personas = [("honest", "dishonest")];
        TextPair pair = PairTexts.Make(bundle, "Be {persona}.", personas, ["I know that"], new ThinkingTexts(Inside: true))[0];
        Assert.Equal("<|im_start|>user\nBe honest.<|im_end|>\n<|im_start|>assistant\n<think>\nI know that", pair.Positive);
        Assert.Equal("<|im_start|>user\nBe dishonest.<|im_end|>\n<|im_start|>assistant\n<think>\nI know that", pair.Negative);
        Assert.Equal(pair.Positive.Replace("<think>\n", "", StringComparison.Ordinal), PairTexts.Make(bundle, "Be {persona}.", personas, ["I know that"])[0].Positive);
        Assert.EndsWith("<plan>\nI know that", PairTexts.Make(bundle, "Be {persona}.", personas, ["I know that"], new ThinkingTexts(true, "plan"))[0].Positive);
    }

    [Fact]
    public void Train_and_vector_train_take_thinking_and_keep_it_with_the_run()
    {
        string model = Model(Template);
        CliResult train = CliRun.Run(_shop.Train(model, "run", "--thinking", "--n_epochs", "1", "--eval_dilemmas", "0"));
        Assert.True(train.Code == ExitCodes.Ok, train.Error);
        JsonNode kept = JsonNode.Parse(File.ReadAllText(Path.Combine(_shop.At("runs"), "run", "training_config.json")))!["Thinking"]!;
        Assert.True((bool)kept["Inside"]!);

        // The last token before the suffix differs, and with it every direction.
        string inside = _shop.At("inside.gguf"), outside = _shop.At("outside.gguf");
        string[] vector = ["vector", "train", "--method", "mean_diff", "--model", model, "--personas", "honest:dishonest", "--suffixes", "demo", "--max_pairs", "8"];
        Assert.Equal(ExitCodes.Ok, CliRun.Run([.. vector, "--thinking", "--output", inside]).Code);
        Assert.Equal(ExitCodes.Ok, CliRun.Run([.. vector, "--output", outside]).Code);
        Assert.NotEqual(File.ReadAllBytes(inside), File.ReadAllBytes(outside));
        // Without suffixes of one's own they are thoughts.
        CliResult own = CliRun.Run("vector", "train", "--method", "mean_diff", "--model", model, "--personas", "honesty", "--thinking", "--max_tokens", "100", "--output", _shop.At("own.gguf"));
        Assert.True(own.Code == ExitCodes.Ok, own.Error);
        Assert.Contains($"{4 * (SuffixSets.Load("thoughts").Count + SuffixSets.Load("reasoning").Count)} pairs", own.Out);
    }

    [Fact]
    public void A_switch_changes_the_prompt_of_generate()
    {
        string model = Model(Template);
        Assert.Equal(Prompt("--no-enable_thinking"), Prompt() + 2);
        Assert.Equal(Prompt("--enable_thinking"), Prompt());

        int Prompt(params string[] more)
        {
            CliResult r = CliRun.Run(["generate", "--model", model, "--prompt", "the ball is", "--max_new_tokens", "1", .. more]);
            Assert.True(r.Code == ExitCodes.Ok, r.Error);
            return int.Parse(r.Error.Split("prompt ")[1].Split(' ')[0]);
        }
    }

    [Theory]
    [InlineData("is no thinking model", "vector", "train", "--thinking")]
    [InlineData("cannot be switched off", "generate", "--prompt", "x", "--no-enable_thinking")]
    [InlineData("switched off", "train", "--thinking", "--no-enable_thinking")]
    [InlineData("without --thinking", "vector", "train", "--think_tag", "think")]
    [InlineData("closing tag cannot be told", "train", "--thinking", "--think_tag", "<|x|>")]
    [InlineData("add --generate_answers", "eval", "--max_think_tokens", "9")]
    public void What_cannot_be_is_one_line(string expected, params string[] args)
    {
        CliResult r = CliRun.Run(args);
        Assert.Equal(ExitCodes.UserError, r.Code);
        Assert.Contains(expected, r.ErrorLines.Single(l => l.StartsWith("error:", StringComparison.Ordinal)));
        Assert.False(File.Exists("pca_diff.gguf"));
    }

    [Fact]
    public void A_model_without_thinking_takes_a_tag_that_is_named()
    {
        CliResult r = CliRun.Run("vector", "train", "--method", "mean_diff", "--thinking", "--think_tag", "<think>", "--suffixes", "demo", "--max_pairs", "4", "--output", _shop.At("v.gguf"));
        Assert.True(r.Code == ExitCodes.Ok, r.Error);
    }

    [Theory]
    [InlineData(Template, false)]
    [InlineData(Opening, true)]
    public void What_counts_stands_behind_the_last_closing_tag(string template, bool opened)
    {
        using Device device = Device.Cpu();
        using ModelBundle bundle = ModelBundle.Load(device, Model(template));
        ChoiceItem[] items = [.. EvalItems.BinaryToGenerate(bundle, [.. BinaryQuestions.Items.Take(1)], thinking: true)];
        var thinking = new ThinkingAnswers(bundle.ThinkTags(null, "test"), 8);
        int word = bundle.Tokenizer.TokenToId("ball")!.Value;
        (int open, int close, int yes, int no) = (Id(0), Id(1), Id(2), Id(3));

        // Behind the tag, not the choice that was weighed before it.
        int[] thought = opened ? [yes, word, close, word, no, word] : [open, yes, word, close, word, no, word];
        ChoiceResult answered = Score(thought);
        Assert.Equal(new Thought(opened ? 3 : 4, false, false), answered.Thought);
        Assert.Equal(Plain(thought[..^2]), answered.LogOdds, 1e-5);
        Assert.True(double.IsNaN(Score([.. thought[..^2]]).LogOdds));
        // A second block takes back what was said before it.
        Assert.True(double.IsNaN(Score([.. thought, open, word, close]).LogOdds));
        // Cut: no answer, although a choice was weighed, and though the model ended the text itself.
        foreach (int[] cut in new int[][] { thought[..3], [.. thought[..3], bundle.StopIds[0]] })
        {
            ChoiceResult missing = opened ? Score(cut[..2]) : Score(cut);
            Assert.True(double.IsNaN(missing.LogOdds));
            Assert.True(missing.Thought is { Cut: true, Forced: false });
        }
        ChoiceResult forced = Score(thought[..2], force: true);
        Assert.Equal(new Thought(2, true, true), forced.Thought);
        Assert.Equal(Plain([.. thought[..2], .. bundle.Tokenizer.Encode("\n</think>\n\nFinal choice:", false)]), forced.LogOdds, 1e-5);
        if (!opened)
            Assert.Equal((Plain([word]), new Thought(0, false, false)), (Score([word, yes]).LogOdds, Score([word, yes]).Thought));

        int Id(int i) => bundle.Tokenizer.TokenToId(s_tokens[i])!.Value;

        ChoiceResult Score(int[] answer, bool force = false) =>
            new GeneratedAnswers(bundle, new SamplingSettings(), 4, 1, 4, thinking with { ForceClose = force }).Score(items, [answer], Repeng.Steering.Generation.Steering.None, 0)[0];

        double Plain(int[] before) => new TruthEvaluator(bundle.Model).Run([items[0] with { Prompt = [.. items[0].Prompt, .. before] }], Repeng.Steering.Generation.Steering.None, 0)[0].LogOdds;
    }

    [Fact]
    public void Eval_counts_cut_answers_and_scores_forced_ones()
    {
        string model = Model(Opening), left = _shop.At("left"), forced = _shop.At("forced");
        // Half of all draws would take several seeds; a random model that may write eight tokens seldom closes its block.
        string[] eval = ["eval", "--model", model, "--set", "binary", "--generate_answers", "--max_questions", "8", "--max_think_tokens", "8", "--max_new_tokens", "4", "--output_dir"];
        CliResult first = CliRun.Run([.. eval, left]), second = CliRun.Run([.. eval, forced, "--force_close"]);
        Assert.True(first.Code == ExitCodes.Ok, first.Error);
        Assert.True(second.Code == ExitCodes.Ok, second.Error);
        JsonNode a = Row(left), b = Row(forced);
        int cut = (int)a["thinking"]!["cut"]!;
        Assert.InRange(cut, 1, 8);
        Assert.Equal((8, 0, cut, cut), ((int)a["thinking"]!["answers"]!, (int)a["thinking"]!["forced"]!, (int)b["thinking"]!["cut"]!, (int)b["thinking"]!["forced"]!));
        Assert.InRange((double)a["thinking"]!["mean_tokens"]!, 0.5, 9);
        Assert.InRange((int)a["n"]!, 0, 8 - cut);
        Assert.Equal((int)a["n"]! + cut, (int)b["n"]!);
        Assert.Contains($"{cut} of 8", first.Out);
        Assert.Contains($"{cut} of 8 answers were still in their thoughts", first.Error);
        Assert.DoesNotContain("still in their thoughts", second.Error);
        Assert.Contains($"{cut} forced", second.Out);
        string[] csv = File.ReadAllLines(Path.Combine(left, "eval_results.csv"));
        Assert.EndsWith("think_tokens,cut,forced", csv[0]);
        Assert.Equal(cut, csv.Count(l => l.EndsWith(",true,false", StringComparison.Ordinal)));
    }

    [Fact]
    public void A_block_ends_at_its_limit_and_the_answer_at_its_own()
    {
        using Device device = Device.Cpu();
        using ModelBundle bundle = ModelBundle.Load(device, Model(Template));
        int[] Written(params int[] tokens)
        {
            var limit = new ThoughtLimit(new ThinkingAnswers(ThinkTags.Known[0], 3), 2, open: false, bundle.Tokenizer.CreateStream(skipSpecialTokens: false));
            return [.. tokens.Take(1 + Array.FindIndex(tokens, limit.Add))];
        }
        (int open, int close, int word) = (bundle.Tokenizer.TokenToId("<think>")!.Value, bundle.Tokenizer.TokenToId("</think>")!.Value, bundle.Tokenizer.TokenToId("ball")!.Value);
        Assert.Equal([word, word], Written(word, word, word));
        Assert.Equal([open, word, word], Written(open, word, word, word));
        Assert.Equal([word, open, close, word, word], Written(word, open, close, word, word, word));
    }

    private JsonNode Row(string output) => JsonNode.Parse(File.ReadAllText(Path.Combine(output, "eval.json")))!["rows"]![0]!;

    // The demo's tokenizer with four of its words exchanged for tags and answers, and another template.
    private string Model(string template)
    {
        string folder = _shop.Model();
        string file = Path.Combine(folder, "tokenizer.json"), config = Path.Combine(folder, "tokenizer_config.json");
        JsonNode json = JsonNode.Parse(File.ReadAllText(file))!, settings = JsonNode.Parse(File.ReadAllText(config))!;
        JsonObject vocabulary = json["model"]!["vocab"]!.AsObject();
        foreach ((string token, string word) in s_tokens.Zip(["stone", "strong", "table", "tall"]))
        {
            int id = (int)vocabulary[word]!;
            vocabulary.Remove(word);
            vocabulary[token] = id;
            json["added_tokens"]!.AsArray().Add(new JsonObject { ["id"] = id, ["content"] = token, ["single_word"] = false, ["lstrip"] = false, ["rstrip"] = false, ["normalized"] = false, ["special"] = false });
        }
        settings["chat_template"] = template;
        File.WriteAllText(file, json.ToJsonString());
        File.WriteAllText(config, settings.ToJsonString());
        return folder;
    }
}
