namespace Repeng.Runtime.Tokenizers;

/// <summary>
/// What a name in tokenizer.ggml.pre stands for: how byte-level BPE of a family splits text, written out as the original
/// tokenizer.json of that family has it (llama.cpp's llama-vocab.cpp has the same expressions, adapted to its engine).
/// </summary>
internal sealed record GgufPreTokenizer
{
    private const string Contractions = "(?i:'s|'t|'re|'ve|'m|'ll|'d)";
    private const string WordsAndRest = @"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{DIGITS}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
    private const string CasedWords =
        @"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+TAIL"
        + @"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*TAIL"
        + @"|\p{N}{DIGITS}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";
    private const string Ideographs = "[一-龥ࠀ-一가-퟿]+";

    // Letters with case (Unicode's LC) as DeepSeek's tokenizer spells them out.
    private const string CasedLetters =
        "A-Za-zµÀ-ÖØ-öø-ƺƼ-ƿǄ-ʓʕ-ʯͰ-ͳͶͷͻ-ͽͿΆΈ-ΊΌΎ-ΡΣ-ϵϷ-ҁҊ-ԯԱ-ՖႠ-ჅᎠ-Ᏽᏸ-ᏽᲐ-ᲺᲽ-Ჿᴀ-ᴫᵫ-ᵷᵹ-ᶚḀ-ἕἘ-Ἕἠ-ὅὈ-Ὅὐ-ὗὙὛὝὟ-ώᾀ-ᾴᾶ-ᾼιῂ-ῄῆ-ῌῐ-ΐῖ-Ίῠ-Ῥῲ-ῴῶ-ῼ"
        + "ℂℇℊ-ℓℕℙ-ℝℤΩℨK-ℭℯ-ℴℹℼ-ℿⅅ-ⅉⅎↃↄⰀ-ⱻⱾ-ⳤⳫ-ⳮⳲⳳꙀ-ꙭꚀ-ꚛꜢ-ꝯꝱ-ꞇꞋ-ꞎꭰ-ꮿﬀ-ﬆﬓ-ﬗＡ-Ｚａ-ｚ𐐀-𐑏𐒰-𐓓𐓘-𐓻𐲀-𐲲𐳀-𐳲𑢠-𑣟𞤀-𞥃";

    private static readonly GgufPreTokenizer s_gpt2 = new() { SplitsWords = true };
    private static readonly GgufPreTokenizer s_digitsThenGpt2 = new() { SingleDigits = true, SplitsWords = true };
    private static readonly GgufPreTokenizer s_neox = s_gpt2 with { ComposesUnicode = true };
    private static readonly GgufPreTokenizer s_cl100k = new() { Patterns = [Contractions + "|" + Digits(WordsAndRest, "{1,3}")] };
    private static readonly GgufPreTokenizer s_llama3 = s_cl100k with { IgnoreMerges = true, AddBos = true };
    private static readonly GgufPreTokenizer s_qwen2 = new() { Patterns = [Contractions + "|" + Digits(WordsAndRest, "")], ComposesUnicode = true };
    private static readonly GgufPreTokenizer s_o200k = new() { Patterns = [Tail(Digits(CasedWords, "{1,3}"), Contractions + "?")] };
    private static readonly GgufPreTokenizer s_tekken = new() { Patterns = [Tail(Digits(CasedWords, ""), "")], IgnoreMerges = true, AddBos = true };

    private static readonly SortedDictionary<string, GgufPreTokenizer> s_all = new(StringComparer.Ordinal)
    {
        ["gpt-2"] = s_gpt2,
        ["phi-2"] = s_gpt2,
        ["jais"] = s_gpt2,
        ["smollm"] = s_digitsThenGpt2,
        ["starcoder"] = s_digitsThenGpt2,
        ["refact"] = s_digitsThenGpt2,
        ["codeshell"] = s_digitsThenGpt2,
        ["minerva-7b"] = s_digitsThenGpt2,
        ["exaone"] = s_digitsThenGpt2 with { ComposesUnicode = true },
        ["command-r"] = s_digitsThenGpt2 with { ComposesUnicode = true },
        ["olmo"] = s_neox,
        ["mpt"] = s_neox,
        ["dbrx"] = s_cl100k,
        ["smaug-bpe"] = s_cl100k,
        ["glm4"] = s_cl100k,
        ["chatglm-bpe"] = s_cl100k,
        ["llama-bpe"] = s_llama3,
        ["llama3"] = s_llama3,
        ["llama-v3"] = s_llama3,
        ["falcon3"] = s_llama3,
        ["pixtral"] = s_llama3,
        ["lfm2"] = s_llama3,
        ["qwen2"] = s_qwen2,
        ["stablelm2"] = s_qwen2,
        ["hunyuan"] = s_qwen2 with { ComposesUnicode = false },
        ["gpt-4o"] = s_o200k,
        ["llama4"] = s_o200k with { AddBos = true },
        ["tekken"] = s_tekken,
        ["deepseek-llm"] = new() { Patterns = [@"[\r\n]", $@"\s?[{CasedLetters}]+", @"\s?[!-/:-~！-／：-～‘-‟　-。]+", @"\s+$", Ideographs, @"\p{N}+"] },
        ["deepseek-coder"] = new() { Patterns = [@"[\r\n]", @"\s?\p{L}+", @"\s?\p{P}+", Ideographs, @"\p{N}"] },
        ["deepseek-v3"] = new()
        {
            Patterns =
            [
                @"\p{N}{1,3}", "[一-龥぀-ゟ゠-ヿ]+",
                @"[!""#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
            ],
        },
    };

    /// <summary>Expressions whose matches are split off, one after the other.</summary>
    public IReadOnlyList<string> Patterns { get; init; } = [];

    /// <summary>Whether every digit is split off first.</summary>
    public bool SingleDigits { get; init; }

    /// <summary>Whether GPT-2's own expression splits what is left.</summary>
    public bool SplitsWords { get; init; }

    /// <summary>Whether text is brought to form C.</summary>
    public bool ComposesUnicode { get; init; }

    /// <summary>Whether a piece that is a token is taken whole.</summary>
    public bool IgnoreMerges { get; init; }

    /// <summary>Whether the begin-of-sequence token is put before texts of a file that does not say.</summary>
    public bool AddBos { get; init; }

    /// <summary>All names, for messages.</summary>
    public static IReadOnlyCollection<string> Names => s_all.Keys;

    /// <summary>What a name stands for, or null.</summary>
    public static GgufPreTokenizer? Find(string name) => s_all.GetValueOrDefault(name);

    /// <summary>The steps that split text and spell bytes.</summary>
    public IReadOnlyList<PreTokenizer> Steps(string source)
    {
        List<PreTokenizer> steps = [];
        if (SingleDigits)
            steps.Add(new ClassSplit(CodePoints.IsNumeric, SplitBehavior.Isolated));
        steps.AddRange(Patterns.Select(p => new PatternSplit(TextPattern.OfRegex(p, source), SplitBehavior.Isolated, invert: false)));
        steps.AddRange(ByteLevelSplit.Steps(addPrefixSpace: false, useRegex: SplitsWords));
        return steps;
    }

    private static string Digits(string pattern, string count) => pattern.Replace("{DIGITS}", count, StringComparison.Ordinal);

    private static string Tail(string pattern, string tail) => pattern.Replace("TAIL", tail, StringComparison.Ordinal);
}
