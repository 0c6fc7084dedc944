using System.Collections.Frozen;

namespace Repeng.Steering.Demo;

/// <summary>
/// The word-level vocabulary of the demo model: special tokens, punctuation, digits, then the words of
/// <see cref="DemoLexicon"/> in ordinal order. Text is lowered, blanks are dropped, and what is neither a run
/// of letters nor blank is a token by itself. The same rules as the written tokenizer.json.
/// </summary>
public sealed class DemoVocabulary
{
    /// <summary>Padding, id 0.</summary>
    public const string Pad = "<|endoftext|>";

    /// <summary>Opens a chat turn.</summary>
    public const string TurnStart = "<|im_start|>";

    /// <summary>Ends a chat turn, and a text.</summary>
    public const string TurnEnd = "<|im_end|>";

    /// <summary>Any word that is not in the vocabulary.</summary>
    public const string Unknown = "<unk>";

    private static readonly string[] s_special = [Pad, TurnStart, TurnEnd, Unknown];
    private static readonly Lazy<DemoVocabulary> s_shared = new(() => new DemoVocabulary());
    private readonly FrozenDictionary<string, int> _ids;
    private readonly FrozenDictionary<string, int>.AlternateLookup<ReadOnlySpan<char>> _idsBySpan;

    private DemoVocabulary()
    {
        SortedSet<string> words = new(StringComparer.Ordinal) { "user", "assistant", "system", "yes", "no", "true", "false", "not" };
        foreach (string wording in Wordings())
            foreach (var range in Split(wording))
                words.Add(wording[range]);
        string[] marks = [.. ".,!?:;'\"-()".Select(c => c.ToString()), .. Enumerable.Range(0, 10).Select(i => i.ToString())];
        words.ExceptWith(marks);
        Tokens = [.. s_special, .. marks, .. words];
        _ids = Tokens.Select((token, id) => (token, id)).ToFrozenDictionary(p => p.token, p => p.id, StringComparer.Ordinal);
        _idsBySpan = _ids.GetAlternateLookup<ReadOnlySpan<char>>();
        PadId = _ids[Pad];
        TurnStartId = _ids[TurnStart];
        TurnEndId = _ids[TurnEnd];
        UnknownId = _ids[Unknown];
    }

    /// <summary>The vocabulary; there is one, and it does not depend on the world's seed.</summary>
    public static DemoVocabulary Shared => s_shared.Value;

    /// <summary>Tokens by id.</summary>
    public IReadOnlyList<string> Tokens { get; }

    /// <summary>Number of tokens.</summary>
    public int Count => Tokens.Count;

    /// <summary>Id of <see cref="Pad"/>.</summary>
    public int PadId { get; }

    /// <summary>Id of <see cref="TurnStart"/>.</summary>
    public int TurnStartId { get; }

    /// <summary>Id of <see cref="TurnEnd"/>.</summary>
    public int TurnEndId { get; }

    /// <summary>Id of <see cref="Unknown"/>.</summary>
    public int UnknownId { get; }

    /// <summary>The special tokens, in the order of their ids from 0.</summary>
    public static IReadOnlyList<string> SpecialTokens => s_special;

    /// <summary>Id of a token.</summary>
    /// <exception cref="KeyNotFoundException">It is not in the vocabulary.</exception>
    public int Id(string token) => _ids.TryGetValue(token, out int id)
        ? id
        : throw new KeyNotFoundException($"'{token}' is not in the demo vocabulary of {Count} tokens");

    /// <summary>Token ids of ordinary text (special tokens are not looked for).</summary>
    public int[] Encode(string text)
    {
        text = Normalize(text);
        List<int> ids = [];
        foreach (var range in Split(text))
            ids.Add(_idsBySpan.TryGetValue(text.AsSpan(range), out int id) ? id : UnknownId);
        return [.. ids];
    }

    /// <summary>The tokens joined by blanks.</summary>
    public string Decode(ReadOnlySpan<int> ids)
    {
        string[] tokens = new string[ids.Length];
        for (int i = 0; i < ids.Length; i++)
            tokens[i] = Tokens[ids[i]];
        return string.Join(' ', tokens);
    }

    private static string Normalize(string text) => text.Replace('\u2019', '\'').ToLowerInvariant();

    private static IEnumerable<Range> Split(string text)
    {
        for (int i = 0; i < text.Length;)
        {
            int start = i++;
            if (char.IsWhiteSpace(text[start]))
                continue;
            if (text[start] is >= 'a' and <= 'z')
                while (i < text.Length && text[i] is >= 'a' and <= 'z')
                    i++;
            else if (char.IsHighSurrogate(text[start]) && i < text.Length && char.IsLowSurrogate(text[i]))
                i++;
            yield return start..i;
        }
    }

    private static IEnumerable<string> Wordings()
    {
        var templates = DemoLexicon.PersonaInstructions.Concat(DemoLexicon.PlainInstructions).Concat(DemoLexicon.ThingRequests)
            .Concat(DemoLexicon.Narrations).Concat(DemoLexicon.Openers).Append(DemoLexicon.ListHead)
            .Concat(DemoLexicon.HappyInterjections).Concat(DemoLexicon.SadInterjections).Concat(DemoLexicon.PlainInterjections);
        foreach (var property in DemoLexicon.Properties)
            templates = templates.Concat([property.Statement, property.Alternative, property.Question, property.Name, .. property.Values]);
        foreach (string template in templates)
            yield return DemoPhrase.WithoutPlaceholders(template);
        foreach (string thing in DemoLexicon.Things)
            yield return thing;
        foreach (var pair in DemoLexicon.SteeringPersonas.Concat(DemoLexicon.HeldOutPersonas).Concat(DemoLexicon.NeutralPersonas))
            yield return $"{pair.Positive} {pair.Negative}";
        yield return $"a an and {DemoLexicon.FullAdverb} {DemoLexicon.MostAdverb} {DemoLexicon.HalfAdverb}";
    }
}
