using System.Buffers.Binary;
using System.Text;
using Repeng.Kernels;
using Repeng.Runtime.Tokenizers;

namespace Repeng.Runtime.Tests.Tokenizers;

/// <summary>Normalizers of BERT and SentencePiece. Those of byte-level models stand in <see cref="PreTokenizerTests"/>.</summary>
public sealed class NormalizerTests
{
    private static string Normalized(string normalizer, string text)
    {
        Tokenizer tokenizer = JsonParts.Load(JsonParts.File(JsonParts.Bytes(), normalizer, decoder: """{"type":"Sequence","decoders":[{"type":"ByteFallback"},{"type":"Fuse"}]}"""));
        return tokenizer.Decode(tokenizer.Encode(text, false), false);
    }

    [Theory]
    [InlineData("""{"type":"BertNormalizer"}""", " \tHeLLo!how  \n Are yoU? H\u00E9llo", "  hello!how    are you? hello")]
    [InlineData("""{"type":"BertNormalizer","lowercase":false}""", "H\u00E9llo", "H\u00E9llo")]
    [InlineData("""{"type":"BertNormalizer","lowercase":false,"strip_accents":true}""", "H\u00E9ll\u00F6\u0323", "Hello")]
    [InlineData("""{"type":"BertNormalizer","lowercase":true,"strip_accents":false}""", "H\u00C9", "h\u00E9")]
    [InlineData("""{"type":"BertNormalizer"}""", "ah\u535A\u63A8zz", "ah \u535A  \u63A8 zz")]
    [InlineData("""{"type":"BertNormalizer","handle_chinese_chars":false}""", "ah\u535A", "ah\u535A")]
    // Controls, formats, private use and U+FFFD drop out, every white space is a space; U+2B820 is no ideograph for it.
    [InlineData("""{"type":"BertNormalizer"}""", "a\0b\u0001\u200Bc\uE000\uFFFDd\u00ADe\u3000f\u2028g", "abcde f g")]
    [InlineData("""{"type":"BertNormalizer"}""", "\U0002B820\U0002B920\U00020000", "\U0002B820 \U0002B920  \U00020000 ")]
    [InlineData("""{"type":"BertNormalizer","clean_text":false}""", "a\u0001\tb", "a\u0001\tb")]
    // Spacing marks stay (U+0903); marks of later versions of Unicode do, too (U+1ABF, 13.0).
    [InlineData("""{"type":"BertNormalizer"}""", "a\u0903\u0301\u1ABF", "a\u0903\u1ABF")]
    // All kinds of marks go, but only those that stand by themselves.
    [InlineData("""{"type":"StripAccents"}""", "\u00E9e\u0301\u0903\u20DDx\u1ABF", "\u00E9ex\u1ABF")]
    [InlineData("""{"type":"Sequence","normalizers":[{"type":"NFD"},{"type":"StripAccents"},{"type":"Lowercase"}]}""", "\u00C9l\u00E8ve \u1E69", "eleve s")]
    [InlineData("""{"type":"Nmt"}""", "a\u0001\u000Bb\tc\r\nd\u200Be\u2581f\uFEFFg\uFFFDh\u008F\u0085", "ab c  d e f g h\u0085")]
    public void CharactersGoWhereTheRuleSays(string normalizer, string text, string expected) => Assert.Equal(expected, Normalized(normalizer, text));

    [Fact]
    public void WhatIsCutOffTheFrontMovesTheStart()
    {
        // The mark of the scheme "first" is for a piece that begins where the input does.
        const string first = """{"type":"Metaspace","replacement":"_","prepend_scheme":"first","split":true}""";
        const string decoder = """{"type":"Sequence","decoders":[{"type":"ByteFallback"},{"type":"Fuse"}]}""";
        Tokenizer tokenizer = JsonParts.Load(JsonParts.File(JsonParts.Bytes(), """{"type":"StripAccents"}""", first, decoder));
        Assert.Equal("_ab", tokenizer.Decode(tokenizer.Encode("ab", false), false));
        Assert.Equal("ab", tokenizer.Decode(tokenizer.Encode("\u0301ab", false), false));
    }

    /// <summary>A map of replacements, compiled as SentencePiece does.</summary>
    private static byte[] CharsMap(params (string From, string To)[] rules)
    {
        List<byte> replacements = [];
        List<(byte[] Key, int Value)> keys = [];
        foreach ((string from, string to) in rules)
        {
            keys.Add((Encoding.UTF8.GetBytes(from), replacements.Count));
            replacements.AddRange(Encoding.UTF8.GetBytes(to));
            replacements.Add(0);
        }
        uint[] units = DoubleArray.Build(keys);
        byte[] map = new byte[4 + units.Length * 4 + replacements.Count];
        BinaryPrimitives.WriteInt32LittleEndian(map, units.Length * 4);
        for (int i = 0; i < units.Length; i++)
            BinaryPrimitives.WriteUInt32LittleEndian(map.AsSpan(4 + 4 * i), units[i]);
        replacements.CopyTo(map, 4 + units.Length * 4);
        return map;
    }

    [Fact]
    public void ReplacementsWithoutEndAreRefused()
    {
        Assert.Equal(1024, Normalized(Precompiled(CharsMap(("a", new string('x', 1024)), ("b", "c"))), "a").Length);
        // The last one may lack its zero.
        foreach (byte[] map in new[] { CharsMap(("b", "c"), ("a", new string('x', 1025))), CharsMap(("b", "c"), ("a", new string('x', 1025)))[..^1] })
            Assert.Contains("1025 bytes", Assert.Throws<UserErrorException>(() => new PrecompiledNormalizer(map, "test")).Message, StringComparison.Ordinal);
    }

    private static string Precompiled(byte[] map) => $$"""{"type":"Precompiled","precompiled_charsmap":"{{Convert.ToBase64String(map)}}"}""";

    [Theory]
    [InlineData("plain ascii", "plain ascii")]
    [InlineData("a\tb\r\nc\u3000d", "a b c d")]
    [InlineData("\uFB01x\u2122 \uFF21\uFF22", "fixTM AB")]
    // A cluster of less than six bytes is looked up as a whole …
    [InlineData("e\u0301 \u00E9", "\u00E9 \u00E9")]
    // … by its shortest known beginning, which then stands for all of it …
    [InlineData("q\u0301q", "QQ")]
    // … a longer one character by character.
    [InlineData("e\u0301\u0302\u0304", "e\u0301\u0302\u0304")]
    [InlineData("q\u0301\u0302\u0304", "Q\u0301\u0302\u0304")]
    [InlineData("a\u200Bb", "ab")]
    [InlineData("\u4F60\U0001F600\uFF21", "\u4F60\U0001F600A")]
    public void CompiledReplacementsAreThoseOfTheMap(string text, string expected)
    {
        byte[] map = CharsMap(("\t", " "), ("\n", " "), ("\r", " "), ("\u3000", " "), ("\uFB01", "fi"), ("\u2122", "TM"), ("\uFF21", "A"), ("\uFF22", "B"),
            ("e\u0301", "\u00E9"), ("q", "Q"), ("\u200B", ""));
        Assert.Equal(expected, Normalized(Precompiled(map), text));
    }

    /// <summary>Every rule of a large map by itself, and texts of characters without rules.</summary>
    [Fact]
    public void EveryRuleOfALargeMapIsFound()
    {
        (string From, string To)[] rules = [.. Enumerable.Range(0xC0, 0x1000).Where(c => !char.IsSurrogate((char)c) && UnicodeNormalization.Normalize(((char)c).ToString(), NormalizationForm.FormKC) is var n && n != ((char)c).ToString())
            .Select(c => (((char)c).ToString(), UnicodeNormalization.Normalize(((char)c).ToString(), NormalizationForm.FormKC)))];
        Assert.True(rules.Length > 50);
        var normalizer = new PrecompiledNormalizer(CharsMap(rules), "test");
        foreach ((string from, string to) in rules)
            Assert.Equal("x " + to + " y", normalizer.Normalize("x " + from + " y"));
        Assert.Equal("x \u4F60 y", normalizer.Normalize("x \u4F60 y"));
    }

    [Fact]
    public void DamagedMapsAreRefusedOrChangeNothing()
    {
        byte[] good = CharsMap(("a", "b"), ("\u00E9", "e"));
        foreach (byte[] bad in new byte[][] { [], [1, 2], [255, 255, 255, 127, 0], [2, 0, 0, 0, 1, 2], [0, 0, 0, 0, 0xC3] })
            Assert.Contains("test: ", Assert.Throws<UserErrorException>(() => new PrecompiledNormalizer(bad, "test")).Message, StringComparison.Ordinal);
        Assert.Equal("x", new PrecompiledNormalizer([0, 0, 0, 0], "test").Normalize("x"));
        Assert.Contains("base64", Assert.Throws<UserErrorException>(() => Normalized("""{"type":"Precompiled","precompiled_charsmap":"*"}""", "a")).Message, StringComparison.Ordinal);
        var random = new Random(3);
        for (int trial = 0; trial < 2000; trial++)
        {
            byte[] damaged = [.. good];
            for (int n = random.Next(1, 4); n > 0; n--)
                damaged[random.Next(damaged.Length)] = (byte)random.Next(256);
            try
            {
                new PrecompiledNormalizer(damaged, "test").Normalize("a\u00E9x\r\n\u4F60");
            }
            catch (UserErrorException)
            {
            }
        }
    }

    /// <summary>A double array as darts-clone lays it out, by first fit.</summary>
    private static class DoubleArray
    {
        public static uint[] Build(List<(byte[] Key, int Value)> keys)
        {
            List<uint> units = [.. new uint[256]];
            HashSet<int> used = [0];
            Place(0, [.. keys.OrderBy(k => k.Key, Comparer<byte[]>.Create((a, b) => a.AsSpan().SequenceCompareTo(b)))], 0);
            return [.. units];

            void Place(int node, List<(byte[] Key, int Value)> under, int depth)
            {
                int? value = under[0].Key.Length == depth ? under[0].Value : null;
                List<IGrouping<byte, (byte[] Key, int Value)>> children = [.. under.Where(k => k.Key.Length > depth).GroupBy(k => k.Key[depth])];
                // Offsets below 2^21 are stored as they are; the child of a label stands at base xor label.
                int place = 1;
                while (used.Contains(place) || children.Any(c => used.Contains(place ^ c.Key)))
                    place++;
                while (units.Count <= (place | 255))
                    units.AddRange(new uint[256]);
                uint offset = (uint)(place ^ node);
                units[node] = units[node] & 0xFF | offset << 10 | (value is null ? 0u : 1u << 8);
                used.Add(place);
                if (value is { } v)
                    units[place] = (uint)v | 1u << 31;
                foreach (IGrouping<byte, (byte[] Key, int Value)> child in children)
                {
                    used.Add(place ^ child.Key);
                    units[place ^ child.Key] = child.Key;
                }
                foreach (IGrouping<byte, (byte[] Key, int Value)> child in children)
                    Place(place ^ child.Key, [.. child], depth + 1);
            }
        }
    }
}
