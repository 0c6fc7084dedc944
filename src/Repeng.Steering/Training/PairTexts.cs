using Repeng.Kernels;
using Repeng.Steering.Models;

namespace Repeng.Steering.Training;

/// <summary>
/// Contrast pairs from personas and suffixes: for each suffix, for each persona pair, the model's chat template with
/// the persona in the user's turn and the suffix as the begun answer (upstream's make_dataset, suffix-major), or as the begun thoughts of a thinking model.
/// </summary>
public static class PairTexts
{
    /// <summary>Stands for the persona in a template.</summary>
    public const string Placeholder = "{persona}";

    /// <summary>Texts of all pairs, in order.</summary>
    public static List<TextPair> Make(ModelBundle bundle, string template, IReadOnlyList<(string Positive, string Negative)> personas, IReadOnlyList<string> suffixes, ThinkingTexts? thinking = null) =>
        Make((user, suffix) => bundle.RenderPersona(user, suffix, thinking), template, personas, suffixes);

    /// <summary>The same with any rendering of (the user's text, the begun answer).</summary>
    public static List<TextPair> Make(Func<string, string, string> render, string template, IReadOnlyList<(string Positive, string Negative)> personas, IReadOnlyList<string> suffixes)
    {
        if (!template.Contains(Placeholder, StringComparison.Ordinal))
            throw new UserErrorException($"persona template '{template}' has no {Placeholder} to put the persona in");
        if (personas.Count == 0)
            throw new UserErrorException("no persona pair is given; for example --personas honest:dishonest");
        if (suffixes.Count == 0)
            throw new UserErrorException("no suffix is given; see --suffixes");
        var pairs = new List<TextPair>(suffixes.Count * personas.Count);
        string nobody = WithoutPersona(template);
        foreach (string suffix in suffixes)
        {
            string neutral = render(nobody, suffix);
            foreach ((string positive, string negative) in personas)
                pairs.Add(new TextPair(Text(positive, suffix), Text(negative, suffix), neutral));
        }
        return pairs;

        string Text(string persona, string suffix) => render(template.Replace(Placeholder, persona, StringComparison.Ordinal), suffix);
    }

    /// <summary>The template without the persona, its article mended: "an {persona} person" becomes "a person".</summary>
    public static string WithoutPersona(string template)
    {
        string text = template.Replace($"an {Placeholder} person", "a person", StringComparison.Ordinal).Replace($"a very {Placeholder} person", "a person", StringComparison.Ordinal);
        return text.Replace($"{Placeholder} ", "", StringComparison.Ordinal).Replace(Placeholder, "", StringComparison.Ordinal);
    }

    /// <summary>Token ids of pairs; texts are cut to the last maxTokens, as the trainer's truncation keeps the end that the loss reads.</summary>
    public static List<TokenPair> Encode(ModelBundle bundle, IEnumerable<TextPair> pairs, int maxTokens)
    {
        var encoded = new List<TokenPair>();
        foreach (TextPair p in pairs)
        {
            var pair = new TokenPair(Ids(p.Positive), Ids(p.Negative), p.Neutral is null ? null : Ids(p.Neutral));
            if (pair.Positive.AsSpan().SequenceEqual(pair.Negative))
            {
                // Texts that differ and whose kept ends are the same have lost the personas to the cut, not to the tokenizer.
                int whole = bundle.Tokenizer.Encode(p.Positive, addSpecialTokens: false).Length;
                if (whole > maxTokens)
                    throw new UserErrorException($"a text of {whole} tokens is cut to its last {maxTokens}, which leaves nothing of the personas: '{Shorten(p.Positive)}'; shorten the suffix, or raise --max_tokens as far as the context of {bundle.Model.Config.MaxPositions} tokens allows");
                throw new UserErrorException($"both texts of a pair are the same to the tokenizer of {bundle.Name}: '{Shorten(p.Positive)}'; choose personas that differ");
            }
            encoded.Add(pair);
        }
        return encoded;

        int[] Ids(string text)
        {
            // The rendered chat holds its special tokens already.
            int[] ids = bundle.Tokenizer.Encode(text, addSpecialTokens: false);
            if (ids.Length < 3)
                throw new UserErrorException($"the text '{Shorten(text)}' has only {ids.Length} tokens; a training text needs at least 3");
            return ids.Length <= maxTokens ? ids : ids[^maxTokens..];
        }
    }

    /// <summary>A seeded choice of at most count of the items, in a seeded order (sorted sources first, so that file order does not matter).</summary>
    public static List<T> Sample<T>(IReadOnlyList<T> items, int count, ulong seed, ulong stream)
    {
        T[] shuffled = [.. items];
        new PhiloxSequence(seed, (1ul << 32) + stream).Shuffle(shuffled.AsSpan());
        return [.. shuffled.Take(count)];
    }

    private static string Shorten(string text) => text.Length <= 80 ? text : string.Concat(text.AsSpan(0, 40), " … ", text.AsSpan(text.Length - 37));
}
