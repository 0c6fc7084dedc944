using Repeng.Runtime.Chat;
using Repeng.Runtime.Tokenizers;

namespace Repeng.Steering.Evaluation;

/// <summary>What became of the thoughts before one answer.</summary>
/// <param name="Tokens">Tokens up to the end of the last closing tag; 0 where the model did not think.</param>
/// <param name="Cut">The block was still open when the text ended, by its limit or by the model: there is no answer.</param>
/// <param name="Forced">A closing tag and the beginning of an answer were put behind a cut block, so that there is one.</param>
public readonly record struct Thought(int Tokens, bool Cut, bool Forced);

/// <summary>Thoughts of all answers of a method at one coefficient.</summary>
/// <param name="Answers">Answers in all.</param>
/// <param name="Cut">Of these, how many had not closed their block.</param>
/// <param name="Forced">Of the cut ones, how many got an answer behind an inserted closing tag.</param>
/// <param name="MeanTokens">Mean number of tokens of thought, cut ones included.</param>
public readonly record struct ThoughtCounts(int Answers, int Cut, int Forced, double MeanTokens)
{
    /// <summary>Answers that can be judged at all: all but those that were cut and not forced.</summary>
    public int Judged => Answers - Cut + Forced;

    /// <summary>Sums; null where no thoughts were looked for.</summary>
    public static ThoughtCounts? Of(IReadOnlyList<ChoiceResult> results)
    {
        Thought[] thoughts = [.. results.Select(r => r.Thought).OfType<Thought>()];
        return thoughts.Length == 0 ? null : new ThoughtCounts(thoughts.Length, thoughts.Count(t => t.Cut), thoughts.Count(t => t.Forced), thoughts.Average(t => t.Tokens));
    }
}

/// <summary>How generated answers deal with thoughts.</summary>
/// <param name="Tags">What thoughts stand between.</param>
/// <param name="MaxTokens">Most tokens of a block; one that is longer is cut. The answer's own limit counts from its closing tag.</param>
/// <param name="ForceClose">Put a closing tag and the beginning of an answer behind a cut block, and score that.</param>
public sealed record ThinkingAnswers(ThinkTags Tags, int MaxTokens, bool ForceClose = false);

/// <summary>Follows one answer while it is written, and ends it at the limit of its block or of what comes after.</summary>
/// <param name="thinking">Tags and the limit of a block.</param>
/// <param name="maxAnswer">Tokens outside of a block at most, counted anew behind each closing tag.</param>
/// <param name="open">Whether the prompt has opened the block.</param>
/// <param name="stream">Decodes the tokens as they come, special ones included.</param>
public sealed class ThoughtLimit(ThinkingAnswers thinking, int maxAnswer, bool open, DecodeStream stream)
{
    private string _text = "";
    private int _thought;
    private int _said;
    private int _answerStart;

    /// <summary>Takes the next token; true at the limit.</summary>
    public bool Add(int token)
    {
        _text += stream.Add(token);
        (bool isOpen, _, int start) = thinking.Tags.Scan(_text, open);
        // What was said before a block is no answer.
        if (start != _answerStart)
            (_answerStart, _said) = (start, 0);
        else if (isOpen)
            _thought++;
        else
            _said++;
        return isOpen ? _thought >= thinking.MaxTokens : _said >= maxAnswer;
    }
}
