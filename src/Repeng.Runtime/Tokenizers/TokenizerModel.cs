using Repeng.Kernels;

namespace Repeng.Runtime.Tokenizers;

/// <summary>Turns one piece of prepared text into token ids.</summary>
internal abstract class TokenizerModel
{
    /// <summary>Appends the ids of a non-empty piece. Thread-safe; <paramref name="scratch"/> belongs to the caller's thread.</summary>
    public abstract void Encode(ReadOnlySpan<char> piece, ModelScratch scratch, List<int> output);
}

/// <summary>A vocabulary of whole words; a word that is not in it becomes the unknown token.</summary>
internal sealed class WordLevelModel(Vocabulary vocabulary, string unknown, string file) : TokenizerModel
{
    /// <exception cref="UserErrorException">The word is unknown and the vocabulary lacks the unknown token.</exception>
    public override void Encode(ReadOnlySpan<char> piece, ModelScratch scratch, List<int> output)
    {
        if (!vocabulary.TryGetId(piece, out int id) && !vocabulary.TryGetId(unknown, out id))
            throw new UserErrorException($"{file}: the word {JsonSection.Quote(piece)} is not in the vocabulary, and neither is the unknown token {JsonSection.Quote(unknown)}");
        output.Add(id);
    }
}
