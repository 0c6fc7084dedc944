using System.Text;

namespace Repeng.Runtime.Tokenizers;

/// <summary>A prefix marks tokens that continue a word; all others have a space in front. Clean-up takes back spaces of English punctuation.</summary>
internal sealed class WordPieceDecoder(string prefix, bool cleanUp) : TokenDecoder
{
    public override void Decode(List<string> tokens)
    {
        for (int i = 0; i < tokens.Count; i++)
            tokens[i] = Rewrite(tokens[i], i);
    }

    private string Rewrite(string token, int index)
    {
        if (index > 0)
            token = token.StartsWith(prefix, StringComparison.Ordinal) ? token[prefix.Length..] : " " + token;
        return cleanUp ? CleanUp(token) : token;
    }

    /// <summary>Takes back the spaces that stand before English punctuation and contractions.</summary>
    internal static string CleanUp(string text) => !text.Contains(' ', StringComparison.Ordinal) ? text
        : new StringBuilder(text).Replace(" .", ".").Replace(" ?", "?").Replace(" !", "!").Replace(" ,", ",")
            .Replace(" ' ", "'").Replace(" n't", "n't").Replace(" 'm", "'m").Replace(" do not", " don't")
            .Replace(" 's", "'s").Replace(" 've", "'ve").Replace(" 're", "'re").ToString();

    public override StreamStep Stream(bool joined) => joined ? new HeldStep(this) : new EachStep(Rewrite);
}

/// <summary>A suffix that marks the end of a word becomes a space, in the last token nothing.</summary>
internal sealed class SuffixDecoder(string suffix) : TokenDecoder
{
    public override void Decode(List<string> tokens)
    {
        for (int i = 0; i < tokens.Count; i++)
            tokens[i] = Rewrite(tokens[i], i == tokens.Count - 1);
    }

    private string Rewrite(string token, bool last) =>
        _suffix.Length == 0 ? token : token.Replace(_suffix, last ? "" : " ", StringComparison.Ordinal);

    public override StreamStep Stream(bool joined) => joined ? new HeldStep(this) : new Step(this);

    /// <summary>
    /// Whether a suffix is a space or nothing shows when the next token comes: a token is passed on up to
    /// its first suffix, and the rest of it waits.
    /// </summary>
    private sealed class Step(SuffixDecoder owner) : StreamStep
    {
        private string _held = "";

        public override void Push(string token)
        {
            if (_held.Length > 0)
                Next(owner.Rewrite(_held, last: false));
            int at = owner._suffix.Length == 0 ? -1 : token.IndexOf(owner._suffix, StringComparison.Ordinal);
            _held = at < 0 ? "" : token[at..];
            Next(at < 0 ? token : token[..at]);
        }

        public override void Flush()
        {
            if (_held.Length > 0)
                Next(owner.Rewrite(_held, last: true));
            _held = "";
        }
    }

    private readonly string _suffix = suffix;
}

/// <summary>
/// Connectionist temporal classification, of models of speech: of equal neighbours one stays, the padding token drops out,
/// with clean-up the delimiter becomes a space.
/// </summary>
internal sealed class CtcDecoder(string padding, string delimiter, bool cleanUp) : TokenDecoder
{
    public override void Decode(List<string> tokens)
    {
        List<string> decoded = new(tokens.Count);
        string? before = null;
        foreach (string token in tokens)
        {
            if (token != before && Rewrite(token) is { Length: > 0 } text)
                decoded.Add(text);
            before = token;
        }
        tokens.Clear();
        tokens.AddRange(decoded);
    }

    private string Rewrite(string token)
    {
        string text = padding.Length == 0 ? token : token.Replace(padding, "", StringComparison.Ordinal);
        if (!cleanUp)
            return text;
        text = WordPieceDecoder.CleanUp(text);
        return delimiter.Length == 0 ? text : text.Replace(delimiter, " ", StringComparison.Ordinal);
    }

    public override StreamStep Stream(bool joined) => joined ? new HeldStep(this) : new Step(this);

    private sealed class Step(CtcDecoder owner) : StreamStep
    {
        private string? _before;

        public override void Push(string token)
        {
            if (token != _before && owner.Rewrite(token) is { Length: > 0 } text)
                Next(text);
            _before = token;
        }
    }
}
