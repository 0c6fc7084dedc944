using System.Text;

namespace Repeng.Runtime.Tokenizers;

/// <summary>
/// Text of tokens that come one by one, as in generation. Each increment is everything that is decided;
/// only what may still change with the next token is held back, such as the first bytes of a character.
/// Nothing that was returned is ever taken back. Not for use by several threads at once.
/// </summary>
public sealed class DecodeStream
{
    private readonly Tokenizer _tokenizer;
    private readonly bool _skipSpecialTokens;
    private readonly StringBuilder _decided = new();
    private StreamStep[] _steps = [];
    private Action<string> _first = static _ => { };

    internal DecodeStream(Tokenizer tokenizer, bool skipSpecialTokens)
    {
        _tokenizer = tokenizer;
        _skipSpecialTokens = skipSpecialTokens;
        Begin();
    }

    /// <summary>Takes the next token; returns the text that it adds, often empty. Ids without a token, and skipped special tokens, add nothing.</summary>
    public string Add(int id)
    {
        if (_tokenizer.DecodedToken(id, _skipSpecialTokens) is { } token)
            _first(token);
        return Take();
    }

    /// <summary>Ends the text: returns what is still held back, incomplete characters as U+FFFD. The stream then begins anew.</summary>
    public string Flush()
    {
        foreach (StreamStep step in _steps)
            step.Flush();
        string rest = Take();
        Begin();
        return rest;
    }

    private void Begin()
    {
        _steps = _tokenizer.CreateSteps();
        Action<string> next = text => _decided.Append(text);
        for (int i = _steps.Length - 1; i >= 0; i--)
        {
            _steps[i].Next = next;
            next = _steps[i].Push;
        }
        _first = next;
    }

    private string Take()
    {
        string text = _decided.ToString();
        _decided.Clear();
        return text;
    }
}
