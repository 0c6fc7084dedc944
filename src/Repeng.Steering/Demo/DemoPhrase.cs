namespace Repeng.Steering.Demo;

/// <summary>A wording as token ids, with places to fill in.</summary>
internal sealed class DemoPhrase
{
    /// <summary>Stand for {x}, {v}, {a}, {p} among the token ids.</summary>
    public const int Thing = -1, Value = -2, Article = -3, Persona = -4;

    private static readonly (string Text, int Code)[] s_places = [("{x}", Thing), ("{v}", Value), ("{a}", Article), ("{p}", Persona)];

    public DemoPhrase(string template, DemoVocabulary vocabulary)
    {
        List<int> parts = [];
        for (int at = 0; at < template.Length;)
        {
            var (text, code) = s_places.FirstOrDefault(p => template.AsSpan(at).StartsWith(p.Text, StringComparison.Ordinal));
            if (text is not null)
            {
                parts.Add(code);
                at += text.Length;
                continue;
            }

            int next = template.IndexOf('{', at + 1);
            if (next < 0)
                next = template.Length;
            parts.AddRange(vocabulary.Encode(template[at..next]));
            at = next;
        }

        Parts = [.. parts];
    }

    public int[] Parts { get; }

    public static DemoPhrase[] Many(IEnumerable<string> templates, DemoVocabulary vocabulary) =>
        [.. templates.Select(t => new DemoPhrase(t, vocabulary))];

    public static string WithoutPlaceholders(string template)
    {
        foreach (var (text, _) in s_places)
            template = template.Replace(text, " ", StringComparison.Ordinal);
        return template;
    }
}
