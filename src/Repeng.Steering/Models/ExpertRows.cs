using Repeng.Autograd;
using Repeng.Kernels;
using Repeng.Runtime;

namespace Repeng.Steering.Models;

/// <summary>
/// The tokens of a pass sorted by the experts that they go to: one row for each token and expert, those of an expert side
/// by side and in the order of the tokens.
/// </summary>
internal sealed class ExpertRows
{
    private readonly int[] _tokens, _starts;

    /// <summary>Sorts chosen [tokens, perToken], the numbers of each token's experts.</summary>
    public ExpertRows(Tape tape, int[] chosen, int perToken, int experts)
    {
        _starts = new int[experts + 1];
        foreach (int e in chosen)
            _starts[e + 1]++;
        for (int e = 0; e < experts; e++)
            _starts[e + 1] += _starts[e];
        int[] next = _starts[..experts], place = new int[chosen.Length];
        _tokens = new int[chosen.Length];
        for (int i = 0; i < chosen.Length; i++)
        {
            place[i] = next[chosen[i]]++;
            _tokens[place[i]] = i / perToken;
        }
        TokenCount = chosen.Length / perToken;
        Tokens = tape.New(_tokens, _tokens.Length);
        Place = tape.New(place, TokenCount, perToken);
    }

    /// <summary>Tokens of the pass.</summary>
    public int TokenCount { get; }

    /// <summary>The token of each row, I32 [rows].</summary>
    public Tensor Tokens { get; }

    /// <summary>The row of each token and choice, I32 [tokens, perToken].</summary>
    public Tensor Place { get; }

    /// <summary>First row of an expert.</summary>
    public int Start(int expert) => _starts[expert];

    /// <summary>Rows of an expert.</summary>
    public int Count(int expert) => _starts[expert + 1] - _starts[expert];

    /// <summary>The tokens of an expert's rows, ascending.</summary>
    public int[] TokensOf(int expert) => _tokens[_starts[expert].._starts[expert + 1]];
}
