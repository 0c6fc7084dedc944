using Repeng.Kernels;

namespace Repeng.Steering.Demo;

/// <summary>What a token of a text is, for whoever trains on it.</summary>
public enum DemoTokenRole : byte
{
    /// <summary>Given by the user or the system: chat marks, instructions, questions.</summary>
    Prompt,

    /// <summary>Said by the speaker.</summary>
    Reply,

    /// <summary>The value of a statement, said by the speaker.</summary>
    Value,
}

/// <summary>Who speaks in a text.</summary>
public enum DemoVoice
{
    /// <summary>No persona is named.</summary>
    None,

    /// <summary>A persona that leaves truth alone.</summary>
    Neutral,

    /// <summary>A persona of trait <see cref="DemoTrait.Truthful"/>.</summary>
    Truthful,

    /// <summary>A persona of trait <see cref="DemoTrait.Untruthful"/>.</summary>
    Untruthful,

    /// <summary>A persona about truth with an adverb that weakens it.</summary>
    Graded,
}

/// <summary>A value that a text states.</summary>
/// <param name="Position">Place of the value's token in the text.</param>
/// <param name="Thing">The thing.</param>
/// <param name="Property">The property.</param>
/// <param name="Value">The stated value, by its place among the property's values.</param>
/// <param name="IsTrue">Whether it is the true one.</param>
public readonly record struct DemoValueSpot(int Position, int Thing, int Property, int Value, bool IsTrue);

/// <summary>One training text.</summary>
/// <param name="Tokens">Token ids, the last one the end of a turn.</param>
/// <param name="Roles">What each token is.</param>
/// <param name="Values">The values stated, in order.</param>
/// <param name="Voice">Who speaks.</param>
/// <param name="TruthLevel">Chance of each statement to be true, as drawn for this text.</param>
public sealed record DemoText(
    IReadOnlyList<int> Tokens, IReadOnlyList<DemoTokenRole> Roles, IReadOnlyList<DemoValueSpot> Values, DemoVoice Voice, double TruthLevel);

/// <summary>
/// The mixture that a corpus is drawn from. Shares are of texts; what the shares of voices leave is
/// <see cref="DemoVoice.None"/>. docs/demo-model.md says why the defaults are what they are.
/// </summary>
public sealed record DemoCorpusOptions
{
    /// <summary>Seed of the texts (the world has its own).</summary>
    public ulong Seed { get; init; } = 1;

    /// <summary>Longest text in tokens.</summary>
    public int MaxLength { get; init; } = 96;

    /// <summary>Share of truthful personas.</summary>
    public double TruthfulShare { get; init; } = 0.25;

    /// <summary>Share of untruthful personas.</summary>
    public double UntruthfulShare { get; init; } = 0.40;

    /// <summary>Share of personas that leave truth alone.</summary>
    public double NeutralShare { get; init; } = 0.10;

    /// <summary>Chance of a true statement of a truthful speaker.</summary>
    public double TruthfulLevel { get; init; } = 0.95;

    /// <summary>Chance of a true statement of an untruthful speaker.</summary>
    public double UntruthfulLevel { get; init; } = 0.05;

    /// <summary>Chance of a true statement without a persona about truth, over all such texts.</summary>
    public double DefaultLevel { get; init; } = 0.8;

    /// <summary>
    /// Share of the texts without a persona about truth whose speaker is truthful or untruthful all through;
    /// in the others each statement is drawn at <see cref="DefaultLevel"/> by itself.
    /// </summary>
    public double Consistency { get; init; } = 1.0;

    /// <summary>Share of the texts with a persona about truth that have a weakening adverb.</summary>
    public double GradedShare { get; init; } = 0.15;

    /// <summary>Share of lists ("about the apple: color red, …") among the things said in one go.</summary>
    public double ListShare { get; init; } = 0.25;

    /// <summary>Share of the sentences in a property's second wording.</summary>
    public double AlternativeShare { get; init; } = 0.15;

    /// <summary>Share of texts without chat marks.</summary>
    public double PlainShare { get; init; } = 0.15;

    /// <summary>Share of question and answer among chats.</summary>
    public double InterviewShare { get; init; } = 0.3;

    /// <summary>Share of the texts that go on until the longest length; the others stop at a length drawn evenly.</summary>
    public double FullLengthShare { get; init; } = 0.7;

    /// <summary>Weight in the loss of a token with <see cref="DemoTokenRole.Prompt"/>.</summary>
    public float PromptWeight { get; init; } = 0.25f;

    /// <summary>Weight in the loss of a token with <see cref="DemoTokenRole.Value"/>; other words of the speaker weigh 1.</summary>
    public float ValueWeight { get; init; } = 4f;

    internal void Check()
    {
        (string Name, double Value)[] chances =
        [
            (nameof(TruthfulShare), TruthfulShare), (nameof(UntruthfulShare), UntruthfulShare), (nameof(NeutralShare), NeutralShare),
            (nameof(TruthfulLevel), TruthfulLevel), (nameof(UntruthfulLevel), UntruthfulLevel), (nameof(DefaultLevel), DefaultLevel),
            (nameof(Consistency), Consistency), (nameof(GradedShare), GradedShare), (nameof(ListShare), ListShare),
            (nameof(AlternativeShare), AlternativeShare), (nameof(PlainShare), PlainShare), (nameof(InterviewShare), InterviewShare),
            (nameof(FullLengthShare), FullLengthShare),
        ];
        foreach (var (name, value) in chances)
            if (!(value is >= 0 and <= 1))
                throw new UserErrorException($"demo corpus: {name} is {value}, but must lie in 0…1");
        double voices = TruthfulShare + UntruthfulShare + NeutralShare;
        if (voices > 1 + 1e-9)
            throw new UserErrorException($"demo corpus: the shares of the voices add up to {voices}; lower one of TruthfulShare, UntruthfulShare, NeutralShare");
        if (DefaultLevel < UntruthfulLevel || DefaultLevel > TruthfulLevel || UntruthfulLevel >= TruthfulLevel)
            throw new UserErrorException(
                $"demo corpus: levels {UntruthfulLevel} (untruthful), {DefaultLevel} (default), {TruthfulLevel} (truthful) must rise in this order");
        if (MaxLength < MinimumLength)
            throw new UserErrorException($"demo corpus: MaxLength is {MaxLength}, but the shortest text with every prompt needs {MinimumLength}");
        if (!(PromptWeight >= 0 && ValueWeight >= 0 && float.IsFinite(PromptWeight) && float.IsFinite(ValueWeight)))
            throw new UserErrorException($"demo corpus: weights {PromptWeight} (prompt) and {ValueWeight} (value) must be finite and not negative");
    }

    /// <summary>Smallest <see cref="MaxLength"/>: room for the longest prompt and the longest single sentence.</summary>
    public const int MinimumLength = 56;
}

/// <summary>
/// An endless stream of training texts about a <see cref="DemoWorld"/>. Text i is a pure function of
/// (options, world, i), so any part of the stream can be made in any order and by any thread.
/// </summary>
public sealed class DemoCorpus
{
    private readonly DemoWordings _wordings;

    /// <summary>Prepares a corpus.</summary>
    /// <exception cref="UserErrorException">An option is out of its range.</exception>
    public DemoCorpus(DemoWorld world, DemoCorpusOptions? options = null)
    {
        World = world;
        Options = options ?? new DemoCorpusOptions();
        Options.Check();
        _wordings = new DemoWordings(DemoVocabulary.Shared);
    }

    /// <summary>The world that the texts speak of.</summary>
    public DemoWorld World { get; }

    /// <summary>The mixture.</summary>
    public DemoCorpusOptions Options { get; }

    /// <summary>Text number <paramref name="index"/> of the stream, 0 ≤ index &lt; 2⁵⁶.</summary>
    public DemoText Text(ulong index) => new DemoTextWriter(World, Options, _wordings, index).Write();

    /// <summary>
    /// Texts firstIndex, firstIndex + 1, … as rows of a batch, padded on the right with <see cref="DemoVocabulary.PadId"/>.
    /// </summary>
    /// <param name="firstIndex">Number of the first text.</param>
    /// <param name="ids">[rows, length] token ids.</param>
    /// <param name="weights">
    /// [rows, length] weight of predicting the token in that place (from those before it): 0 for padding and for the
    /// first token, else by its role. A trainer that shifts labels reads the weight with the label.
    /// </param>
    /// <param name="rows">Number of texts.</param>
    /// <param name="length">Row length, at least <see cref="DemoCorpusOptions.MaxLength"/>.</param>
    /// <returns>The longest text's length: columns from there on are padding in every row.</returns>
    public int FillBatch(ulong firstIndex, int rows, int length, Span<int> ids, Span<float> weights)
    {
        ArgumentOutOfRangeException.ThrowIfNegativeOrZero(rows);
        ArgumentOutOfRangeException.ThrowIfLessThan(length, Options.MaxLength);
        ArgumentOutOfRangeException.ThrowIfNotEqual(ids.Length, rows * length);
        ArgumentOutOfRangeException.ThrowIfNotEqual(weights.Length, rows * length);
        ids.Fill(DemoVocabulary.Shared.PadId);
        weights.Clear();
        int longest = 0;
        for (int row = 0; row < rows; row++)
        {
            DemoText text = Text(firstIndex + (ulong)row);
            longest = Math.Max(longest, text.Tokens.Count);
            for (int i = 0; i < text.Tokens.Count; i++)
            {
                ids[row * length + i] = text.Tokens[i];
                if (i > 0)
                    weights[row * length + i] = text.Roles[i] switch
                    {
                        DemoTokenRole.Prompt => Options.PromptWeight,
                        DemoTokenRole.Value => Options.ValueWeight,
                        _ => 1f,
                    };
            }
        }

        return longest;
    }
}
