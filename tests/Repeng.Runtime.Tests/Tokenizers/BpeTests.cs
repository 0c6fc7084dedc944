using System.Text.Json.Nodes;
using CsCheck;
using Repeng.Runtime.Tokenizers;

namespace Repeng.Runtime.Tests.Tokenizers;

public sealed class BpeTests
{
    private const string Alphabet = "ab.\u2581";

    /// <summary>
    /// Short pieces, long ones, and pieces that are cut before U+2581 get the ids of the definition: while a pair merges, the
    /// leftmost of the lowest rank does. Merges are random, across U+2581 as well.
    /// </summary>
    [Theory]
    [InlineData(true)]
    [InlineData(false)]
    public void MergesAreThoseOfTheDefinition(bool byteFallback)
    {
        Gen.Select(Gen.Select(Gen.Int[0, 999], Gen.Int[0, 999]).Array[0, 25], Gen.Char[Alphabet].Array[1, 70].Select(c => new string(c))).Sample((picks, text) =>
        {
            List<string> tokens = [.. Alphabet.Select(c => c.ToString())];
            List<(string Left, string Right)> merges = [];
            foreach ((int left, int right) in picks)
            {
                (string Left, string Right) pair = (tokens[left % tokens.Count], tokens[right % tokens.Count]);
                if (pair.Left.Length + pair.Right.Length > 8 || merges.Contains(pair))
                    continue;
                merges.Add(pair);
                if (!tokens.Contains(pair.Left + pair.Right))
                    tokens.Add(pair.Left + pair.Right);
            }
            JsonObject model = JsonParts.Bpe([.. tokens]);
            model["merges"] = new JsonArray([.. merges.Select(m => (JsonNode)new JsonArray(m.Left, m.Right))]);
            model["byte_fallback"] = byteFallback;
            Tokenizer tokenizer = JsonParts.Load(JsonParts.File(model));
            string expected = string.Join('|', Defined(text, merges));
            Assert.Equal(expected, string.Join('|', tokenizer.Encode(text, false).Select(tokenizer.IdToToken)));
            // Now from what was remembered.
            Assert.Equal(expected, string.Join('|', tokenizer.Encode(text, false).Select(tokenizer.IdToToken)));
        }, iter: 3000);
    }

    private static List<string> Defined(string text, List<(string Left, string Right)> merges)
    {
        List<string> symbols = [.. text.Select(c => c.ToString())];
        while (true)
        {
            int best = -1, rank = int.MaxValue;
            for (int i = 0; i + 1 < symbols.Count; i++)
                if (merges.IndexOf((symbols[i], symbols[i + 1])) is >= 0 and int r && r < rank)
                    (best, rank) = (i, r);
            if (best < 0)
                return symbols;
            symbols[best] += symbols[best + 1];
            symbols.RemoveAt(best + 1);
        }
    }

    /// <summary>What is remembered of pieces begins anew when it is full; the ids stay.</summary>
    [Fact]
    public void MorePiecesThanAreRememberedGetTheSameIds()
    {
        string[] tokens = [.. Enumerable.Range(0, 26).Select(i => ((char)('a' + i)).ToString()), "ab", "cd"];
        Tokenizer tokenizer = JsonParts.Load(JsonParts.File(JsonParts.Bpe(tokens, "a b", "c d"), preTokenizer: """{"type":"WhitespaceSplit"}"""));
        var random = new Random(4);
        string[] words = [.. Enumerable.Range(0, 60_000).Select(_ => new string([.. Enumerable.Range(0, random.Next(1, 60)).Select(_ => (char)('a' + random.Next(26)))]))];
        int[] together = tokenizer.Encode(string.Join(' ', words.Concat(words)), false);
        int[] one = [.. words.SelectMany(w => Plain(w))];
        Assert.Equal([.. one, .. one], together);

        static IEnumerable<int> Plain(string word)
        {
            for (int i = 0; i < word.Length; i++)
            {
                bool merges = i + 1 < word.Length && (word[i..(i + 2)] is "ab" or "cd");
                yield return merges ? word[i] == 'a' ? 26 : 27 : word[i] - 'a';
                i += merges ? 1 : 0;
            }
        }
    }
}
