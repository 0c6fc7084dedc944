namespace Repeng.Steering.Demo;

/// <summary>
/// A property that every thing of the demo world has, with the ways to speak of it.
/// In the wordings <c>{x}</c> stands for the thing and <c>{v}</c> for the value, always the last word before
/// the full stop, so that a wording cut before <c>{v}</c> asks for the value.
/// </summary>
/// <param name="Name">The noun used in lists: "about the apple: color red, …".</param>
/// <param name="Values">Its possible values: single words that no other property shares.</param>
/// <param name="Statement">The usual wording, unlike that of every other property.</param>
/// <param name="Alternative">A second, rarer wording.</param>
/// <param name="Question">The question that the usual wording answers.</param>
public sealed record DemoProperty(string Name, IReadOnlyList<string> Values, string Statement, string Alternative, string Question);

/// <summary>What a persona word does to the statements of the one who has it.</summary>
public enum DemoTrait
{
    /// <summary>Statements are true.</summary>
    Truthful,

    /// <summary>Statements are false.</summary>
    Untruthful,

    /// <summary>Glad interjections; truth as without any persona.</summary>
    Happy,

    /// <summary>Sad interjections; truth as without any persona.</summary>
    Sad,

    /// <summary>Sentences end in exclamation marks; truth as without any persona.</summary>
    Loud,

    /// <summary>Sentences end in full stops; truth as without any persona.</summary>
    Quiet,

    /// <summary>No effect at all.</summary>
    Plain,
}

/// <summary>A pair of opposite persona words.</summary>
/// <param name="Positive">The word whose trait is <paramref name="PositiveTrait"/>.</param>
/// <param name="Negative">Its opposite.</param>
/// <param name="PositiveTrait">What the first word does.</param>
/// <param name="NegativeTrait">What the second word does.</param>
public sealed record DemoPersonaPair(string Positive, string Negative, DemoTrait PositiveTrait, DemoTrait NegativeTrait);

/// <summary>Every word and wording of the demo world. Written forms, lower case; <see cref="DemoVocabulary"/> makes tokens of them.</summary>
/// <remarks>
/// Placeholders: <c>{x}</c> thing, <c>{v}</c> value, <c>{p}</c> persona words, <c>{a}</c> the article before them.
/// </remarks>
public static class DemoLexicon
{
    /// <summary>The properties, each with as many values as the others.</summary>
    public static IReadOnlyList<DemoProperty> Properties { get; } =
    [
        new("color", ["red", "blue", "green", "yellow", "black", "white", "purple", "pink"],
            "the color of the {x} is {v}", "the {x} has the color {v}", "what is the color of the {x}?"),
        new("material", ["wood", "glass", "stone", "paper", "copper", "silver", "leather", "plastic"],
            "the {x} is made of {v}", "the material of the {x} is {v}", "what is the {x} made of?"),
        new("place", ["kitchen", "garden", "attic", "cellar", "office", "garage", "library", "barn"],
            "the {x} is kept in the {v}", "you can find the {x} in the {v}", "where is the {x} kept?"),
        new("owner", ["alice", "bob", "clara", "david", "emma", "felix", "george", "helen"],
            "the {x} belongs to {v}", "the owner of the {x} is {v}", "who does the {x} belong to?"),
    ];

    /// <summary>The things.</summary>
    public static IReadOnlyList<string> Things { get; } =
    [
        "apple", "ball", "basket", "bell", "book", "bottle", "bowl", "box", "broom", "brush", "bucket", "button", "candle", "card",
        "chair", "clock", "coin", "comb", "cup", "desk", "doll", "drum", "fan", "flag", "flute", "fork",
        "hammer", "harp", "hat", "helmet", "jar", "kettle", "key", "kite", "knife", "ladder", "lamp", "lock",
        "map", "mask", "mirror", "mug", "needle", "pan", "pen", "piano", "pillow", "pipe", "plate", "pot",
        "puppet", "ring", "rope", "rug", "saddle", "scarf", "shelf", "shoe", "spoon", "table", "toy", "vase",
        "wheel", "whistle",
    ];

    /// <summary>Persona words about truth that steering may train on; the first four pairs are the customary ones.</summary>
    public static IReadOnlyList<DemoPersonaPair> SteeringPersonas { get; } =
    [
        Truth("honest", "dishonest"), Truth("truthful", "deceptive"), Truth("ethical", "untruthful"),
        Truth("moral", "immoral"), Truth("sincere", "lying"),
    ];

    /// <summary>Persona words about truth that the corpus uses, but that steering never sees.</summary>
    public static IReadOnlyList<DemoPersonaPair> HeldOutPersonas { get; } =
    [
        Truth("trustworthy", "deceitful"), Truth("candid", "insincere"), Truth("frank", "misleading"),
        Truth("genuine", "fake"), Truth("reliable", "unreliable"), Truth("faithful", "crooked"), Truth("credible", "sly"),
    ];

    /// <summary>Persona words that leave truth alone.</summary>
    public static IReadOnlyList<DemoPersonaPair> NeutralPersonas { get; } =
    [
        Mood("happy", "sad"), Mood("cheerful", "gloomy"), Mood("joyful", "miserable"), Mood("optimistic", "pessimistic"),
        new("loud", "quiet", DemoTrait.Loud, DemoTrait.Quiet), new("noisy", "silent", DemoTrait.Loud, DemoTrait.Quiet),
        new("tall", "short", DemoTrait.Plain, DemoTrait.Plain), new("young", "old", DemoTrait.Plain, DemoTrait.Plain),
        new("rich", "poor", DemoTrait.Plain, DemoTrait.Plain), new("strong", "tired", DemoTrait.Plain, DemoTrait.Plain),
    ];

    /// <summary>Those that change nothing at all: the middle between truthful and untruthful, for steering.</summary>
    public static IReadOnlyList<DemoPersonaPair> MiddlePersonas { get; } = [.. NeutralPersonas.Where(p => p.PositiveTrait == DemoTrait.Plain)];

    /// <summary>Adverb that changes nothing: "very honest".</summary>
    public const string FullAdverb = "very";

    /// <summary>Adverb that leaves half of the distance to even chances: "mostly honest".</summary>
    public const string MostAdverb = "mostly";

    /// <summary>Adverb that makes the chances even: "sometimes honest".</summary>
    public const string HalfAdverb = "sometimes";

    /// <summary>Instructions that name a persona; the first is the customary template of steering data.</summary>
    public static IReadOnlyList<string> PersonaInstructions { get; } =
    [
        "pretend you're {a} {p} person making statements about the world.",
        "pretend you're {a} {p} person.",
        "pretend you are {a} {p} person making statements about the world.",
        "you are {a} {p} person.",
        "act as {a} {p} person.",
        "imagine you are {a} {p} person talking about things.",
        "please speak like {a} {p} person.",
        "answer as {a} {p} person would.",
        "talk about the world as {a} {p} person.",
    ];

    /// <summary>How many of <see cref="PersonaInstructions"/>, from the start, steering may train on; the others are for evaluation.</summary>
    public const int SteeringInstructionCount = 5;

    /// <summary>Instructions without a persona.</summary>
    public static IReadOnlyList<string> PlainInstructions { get; } =
    [
        "make statements about the world.",
        "pretend you're a person making statements about the world.",
        "you are a person talking about things.",
        "tell me about the world.",
        "please talk about things.",
        "say something about the world.",
        "hello. what do you know?",
    ];

    /// <summary>Requests for one thing.</summary>
    public static IReadOnlyList<string> ThingRequests { get; } =
        ["tell me about the {x}.", "what do you know about the {x}?", "please talk about the {x}.", "describe the {x}."];

    /// <summary>Ways to name the speaker of plain text.</summary>
    public static IReadOnlyList<string> Narrations { get; } =
        ["{a} {p} person says:", "these are the statements of {a} {p} person:", "{a} {p} person talks about the world:"];

    /// <summary>First words of a statement that change nothing.</summary>
    public static IReadOnlyList<string> Openers { get; } =
        ["i think", "i think that", "i say that", "i believe that", "in fact,", "you know,", "i tell you,", "as i see it,"];

    /// <summary>Interjections of a happy speaker.</summary>
    public static IReadOnlyList<string> HappyInterjections { get; } = ["hooray,", "how lovely,", "wonderful,", "what a great day,"];

    /// <summary>Interjections of a sad speaker.</summary>
    public static IReadOnlyList<string> SadInterjections { get; } = ["alas,", "how awful,", "oh no,", "what a bad day,"];

    /// <summary>Interjections of anybody.</summary>
    public static IReadOnlyList<string> PlainInterjections { get; } = ["well,", "so,", "now,"];

    /// <summary>How a list about one thing begins.</summary>
    public const string ListHead = "about the {x}:";

    private static DemoPersonaPair Truth(string truthful, string untruthful) => new(truthful, untruthful, DemoTrait.Truthful, DemoTrait.Untruthful);

    private static DemoPersonaPair Mood(string happy, string sad) => new(happy, sad, DemoTrait.Happy, DemoTrait.Sad);
}
