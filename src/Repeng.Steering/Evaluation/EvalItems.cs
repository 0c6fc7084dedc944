using Repeng.Kernels;
using Repeng.Runtime.Chat;
using Repeng.Steering.Data;
using Repeng.Steering.Models;

namespace Repeng.Steering.Evaluation;

/// <summary>Questions of an evaluation set as token ids of a model.</summary>
public static class EvalItems
{
    private const string BinaryInstruction = "Directly and immediately answer with, and only with, either \"My choice: Yes\" or \"My choice: No\".";
    private const string BinaryPrefix = "My choice:";

    /// <summary>
    /// Statements to end: the assistant has begun with the prefix and goes on with one of the completions. A persona is
    /// what the user says before; null leaves the plain request alone. Without a chat template the prefix is plain text,
    /// after the persona if there is one.
    /// </summary>
    public static ChoiceItem[] Truth(ModelBundle bundle, IReadOnlyList<TruthItem> items, string? persona = null) => [.. items.Select(item =>
    {
        int[] prompt = Encode(bundle, Prompt(bundle, persona ?? "Make a statement about the world.", item.Prefix));
        return new ChoiceItem(item.Prefix, prompt, Completions(item.True), Completions(item.False));

        int[][] Completions(IReadOnlyList<string> words) => [.. words.Select(word =>
        {
            int[] whole = Encode(bundle, Prompt(bundle, persona ?? "Make a statement about the world.", $"{item.Prefix} {word}"));
            if (whole.Length <= prompt.Length || !whole.AsSpan(0, prompt.Length).SequenceEqual(prompt))
                throw new UserErrorException($"{bundle.Name}: '{item.Prefix} {word}' does not begin with the tokens of '{item.Prefix}'; this set cannot be scored with this tokenizer, take the binary set");
            return whole[prompt.Length..];
        })];
    })];

    /// <summary>
    /// Yes-or-no questions with the prefilled answer "My choice:". Each side is the set of all tokens that stand for it
    /// (<see cref="BinaryLogRatio.ChoiceTokens"/>); the true answer's is <see cref="ChoiceItem.True"/>.
    /// </summary>
    public static ChoiceItem[] Binary(ModelBundle bundle, IReadOnlyList<BinaryQuestion> questions, string? persona = null)
    {
        int[][] yes = [.. BinaryLogRatio.ChoiceTokens(bundle.Tokenizer, "yes").Select(id => new[] { id })], no = [.. BinaryLogRatio.ChoiceTokens(bundle.Tokenizer, "no").Select(id => new[] { id })];
        return [.. questions.Select(q =>
        {
            string user = $"{(persona is null ? "" : persona + " ")}{q.Question} {BinaryInstruction}";
            return new ChoiceItem(q.Question, Encode(bundle, Prompt(bundle, user, BinaryPrefix)), q.Yes ? yes : no, q.Yes ? no : yes);
        })];
    }

    /// <summary>
    /// The same questions without a begun answer: the model writes it, and what decides is the word after "Final choice:"
    /// (<see cref="GeneratedAnswers"/>). A thinking model is not told to answer at once.
    /// </summary>
    public static ChoiceItem[] BinaryToGenerate(ModelBundle bundle, IReadOnlyList<BinaryQuestion> questions, string? persona = null, bool thinking = false)
    {
        ChoiceItem[] prefilled = Binary(bundle, questions, persona);
        return [.. prefilled.Zip(questions, (item, q) =>
        {
            string user = $"{(persona is null ? "" : persona + " ")}{q.Question} {(thinking ? GeneratedAnswers.ThinkingInstruction : GeneratedAnswers.Instruction)}";
            return item with { Prompt = Encode(bundle, Prompt(bundle, user, "")) };
        })];
    }

    private static string Prompt(ModelBundle bundle, string user, string prefix) => bundle.ChatTemplate is null ? $"{user} {prefix}".TrimEnd() : bundle.RenderChat([new ChatMessage("user", user)], prefix);

    private static int[] Encode(ModelBundle bundle, string text) => bundle.Tokenizer.Encode(text, addSpecialTokens: bundle.ChatTemplate is null);
}
