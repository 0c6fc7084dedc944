namespace Repeng.Steering.Demo;

/// <summary>The lexicon as token ids, made once for a corpus.</summary>
internal sealed class DemoWordings(DemoVocabulary vocabulary)
{
    public DemoVocabulary Vocabulary { get; } = vocabulary;

    public DemoPhrase[] Statements { get; } = DemoPhrase.Many(DemoLexicon.Properties.Select(p => p.Statement), vocabulary);

    public DemoPhrase[] Alternatives { get; } = DemoPhrase.Many(DemoLexicon.Properties.Select(p => p.Alternative), vocabulary);

    public DemoPhrase[] Questions { get; } = DemoPhrase.Many(DemoLexicon.Properties.Select(p => p.Question), vocabulary);

    public int[] Nouns { get; } = [.. DemoLexicon.Properties.Select(p => vocabulary.Id(p.Name))];

    public int[][] Values { get; } = [.. DemoLexicon.Properties.Select(p => p.Values.Select(vocabulary.Id).ToArray())];

    public int[] Things { get; } = [.. DemoLexicon.Things.Select(vocabulary.Id)];

    public DemoPhrase[] PersonaInstructions { get; } = DemoPhrase.Many(DemoLexicon.PersonaInstructions, vocabulary);

    public DemoPhrase[] PlainInstructions { get; } = DemoPhrase.Many(DemoLexicon.PlainInstructions, vocabulary);

    public DemoPhrase[] ThingRequests { get; } = DemoPhrase.Many(DemoLexicon.ThingRequests, vocabulary);

    public DemoPhrase[] Narrations { get; } = DemoPhrase.Many(DemoLexicon.Narrations, vocabulary);

    public DemoPhrase[] Openers { get; } = DemoPhrase.Many(DemoLexicon.Openers, vocabulary);

    public DemoPhrase[] HappyInterjections { get; } = DemoPhrase.Many(DemoLexicon.HappyInterjections, vocabulary);

    public DemoPhrase[] SadInterjections { get; } = DemoPhrase.Many(DemoLexicon.SadInterjections, vocabulary);

    public DemoPhrase[] AllInterjections { get; } = DemoPhrase.Many(
        DemoLexicon.PlainInterjections.Concat(DemoLexicon.HappyInterjections).Concat(DemoLexicon.SadInterjections), vocabulary);

    public DemoPhrase ListHead { get; } = new(DemoLexicon.ListHead, vocabulary);

    public int User { get; } = vocabulary.Id("user");

    public int System { get; } = vocabulary.Id("system");

    public int Assistant { get; } = vocabulary.Id("assistant");

    public int And { get; } = vocabulary.Id("and");

    public int Comma { get; } = vocabulary.Id(",");

    public int Stop { get; } = vocabulary.Id(".");

    public int Exclamation { get; } = vocabulary.Id("!");

    public int A { get; } = vocabulary.Id("a");

    public int An { get; } = vocabulary.Id("an");

    public int Very { get; } = vocabulary.Id(DemoLexicon.FullAdverb);

    public int Mostly { get; } = vocabulary.Id(DemoLexicon.MostAdverb);

    public int Sometimes { get; } = vocabulary.Id(DemoLexicon.HalfAdverb);

    public (int Id, DemoTrait Trait)[] TruthfulPersonas { get; } = Personas(vocabulary, DemoTrait.Truthful);

    public (int Id, DemoTrait Trait)[] UntruthfulPersonas { get; } = Personas(vocabulary, DemoTrait.Untruthful);

    public (int Id, DemoTrait Trait)[] NeutralPersonas { get; } =
        [.. DemoLexicon.NeutralPersonas.SelectMany(p => new[] { (vocabulary.Id(p.Positive), p.PositiveTrait), (vocabulary.Id(p.Negative), p.NegativeTrait) })];

    private static (int, DemoTrait)[] Personas(DemoVocabulary vocabulary, DemoTrait trait) =>
    [
        .. DemoLexicon.SteeringPersonas.Concat(DemoLexicon.HeldOutPersonas)
            .Select(p => (vocabulary.Id(trait == DemoTrait.Truthful ? p.Positive : p.Negative), trait)),
    ];
}
