using System.Text;
using Repeng.Kernels;

namespace Repeng.Runtime.Tokenizers;

/// <summary>
/// SentencePiece's unigram language model (Kudo 2018): of all ways to cut a piece into tokens the one with the highest sum
/// of log-probabilities, by Viterbi's algorithm. A character that no token covers costs ten more than the worst token;
/// neighbouring unknown characters are one unknown token, or their bytes.
/// </summary>
internal sealed class UnigramModel : TokenizerModel
{
    private const double UnknownPenalty = 10;

    private readonly CharTrie _trie;
    private readonly double[] _scores;
    private readonly int _unknown;
    private readonly int[]? _byteTokens;
    private readonly double _unknownScore;
    private readonly Vocabulary _vocabulary;
    private readonly string _file;

    /// <param name="scores">The log-probability of each id.</param>
    /// <param name="takesPart">Whether an id may be found in text; null for all.</param>
    /// <exception cref="UserErrorException">The unknown id is out of range.</exception>
    public UnigramModel(Vocabulary vocabulary, double[] scores, int? unknown, bool byteFallback, string file, Func<int, bool>? takesPart = null)
    {
        _vocabulary = vocabulary;
        _scores = scores;
        _file = file;
        _unknown = unknown ?? -1;
        if (unknown is { } given && (uint)given >= scores.Length)
            throw new UserErrorException($"{file}: unk_id is {unknown}, but the vocabulary has {scores.Length} tokens");
        double lowest = double.PositiveInfinity;
        _trie = new CharTrie(vocabulary.Count * 4);
        foreach ((string token, int id) in vocabulary.Entries)
            if (takesPart is null || takesPart(id))
                _trie.Add(token, id);
        for (int id = 0; id < scores.Length; id++)
            if (takesPart is null || takesPart(id))
                lowest = Math.Min(lowest, scores[id]);
        _unknownScore = (double.IsFinite(lowest) ? lowest : 0) - UnknownPenalty;
        if (!byteFallback)
            return;
        _byteTokens = new int[256];
        for (int b = 0; b < 256; b++)
            _byteTokens[b] = vocabulary.TryGetId($"<0x{b:X2}>", out int id) ? id : -1;
    }

    /// <exception cref="UserErrorException">A character is unknown and the file has no unknown token.</exception>
    public override void Encode(ReadOnlySpan<char> piece, ModelScratch scratch, List<int> output)
    {
        Span<ModelScratch.Cut> cuts = FindBestCuts(piece, scratch);
        // From the end back, unknown neighbours together, then turned round.
        int before = output.Count;
        for (int end = piece.Length; end > 0;)
        {
            int start = cuts[end].Start;
            int id = cuts[end].Id;
            if (id == _unknown && id >= 0)
            {
                while (start > 0 && cuts[start].Id == _unknown)
                    start = cuts[start].Start;
                AddUnknown(piece[start..end], output);
            }
            else
            {
                output.Add(id);
            }
            end = start;
        }
        output.Reverse(before, output.Count - before);
    }

    private Span<ModelScratch.Cut> FindBestCuts(ReadOnlySpan<char> piece, ModelScratch scratch)
    {
        Span<ModelScratch.Cut> cuts = scratch.CutsFor(piece.Length + 1);
        cuts.Fill(new ModelScratch.Cut { Start = -1 });
        for (int start = 0, width; start < piece.Length; start += width)
        {
            CodePoints.At(piece, start, out width);
            double here = cuts[start].Score;
            bool covered = false;
            int node = CharTrie.Root;
            for (int i = start; i < piece.Length && (node = _trie.Next(node, piece[i])) >= 0; i++)
            {
                int id = _trie.ValueAt(node);
                if (id < 0)
                    continue;
                covered |= i + 1 == start + width;
                Offer(ref cuts[i + 1], start, id, here + _scores[id]);
            }
            if (covered)
                continue;
            if (_unknown < 0)
                throw new UserErrorException($"{_file}: the character {JsonSection.Quote(piece.Slice(start, width))} is not in the vocabulary, and model.unk_id is not set");
            Offer(ref cuts[start + width], start, _unknown, here + _unknownScore);
        }
        return cuts;

        // Of equal scores the first one found stays.
        static void Offer(ref ModelScratch.Cut cut, int start, int id, double score)
        {
            if (cut.Start < 0 || score > cut.Score)
                cut = new ModelScratch.Cut { Start = start, Id = id, Score = score };
        }
    }

    /// <summary>Adds what stands for unknown text, last first: its own token where the joined text is one, its bytes, or the unknown token.</summary>
    private void AddUnknown(ReadOnlySpan<char> text, List<int> output)
    {
        if (_vocabulary.TryGetId(text, out int whole))
        {
            output.Add(whole);
            return;
        }
        if (_byteTokens is { } byteTokens)
        {
            byte[] bytes = Encoding.UTF8.GetBytes(text.ToString());
            if (Array.TrueForAll(bytes, b => byteTokens[b] >= 0))
            {
                for (int i = bytes.Length - 1; i >= 0; i--)
                    output.Add(byteTokens[bytes[i]]);
                return;
            }
        }
        output.Add(_unknown);
    }
}
