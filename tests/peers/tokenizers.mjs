// Writes the fixtures of LibraryTokenizerTests: small tokenizers of the kinds that the golden set lacks, with ids and texts by the
// library that defines tokenizer.json. Never needed by CI. It wants npm install @anush008/tokenizers (a binding of Hugging
// Face's library, 0.6.0) in the folder it is run from:
//   node tests/peers/tokenizers.mjs tests/Repeng.Runtime.Tests/Tokenizers/data/library.json
import { createRequire } from "node:module";
import path from "node:path";
import fs from "node:fs";

const { Tokenizer } = createRequire(path.join(process.cwd(), "package.json"))("@anush008/tokenizers");

let state = 12345;
const random = n => { state = (Math.imul(state, 1103515245) + 12345) & 0x7fffffff; return (state >>> 8) % n; };
const pick = list => list[random(list.length)];

const ranges = [[0x20, 0x7e], [0x20, 0x7e], [0xa0, 0x24f], [0x300, 0x36f], [0x370, 0x3ff], [0x400, 0x45f], [0x5d0, 0x5ea], [0x620, 0x660], [0x900, 0x965], [0xe01, 0xe4e],
    [0x1100, 0x1112], [0x2000, 0x206f], [0x2100, 0x214f], [0x3000, 0x30ff], [0x4e00, 0x4e40], [0xac00, 0xac40], [0xff00, 0xff5f], [0x1f600, 0x1f64f], [0x20000, 0x20010], [0x2b820, 0x2b82f]];
const texts = ["", " ", "Hello world", " \tHeLLo!how  \n Are yoU?  ", "H\u00E9llo na\u00EFve caf\u00E9", "ah\u535A\u63A8zz", "don't stop, I'll go. do not!", "a\r\nb\u0000c\u200Bd\u00ADe\uFFFDf", "e\u0301\u0302 q\u0323\u0307",
    "\uFB01ne \u2460 \uFF21\uFF22 \u3000x", "\u0915\u094D\u0924\u093F \u0E01\u0E33", "\u{1F468}\u200D\u{1F469}\u200D\u{1F467} \u{1F1E9}\u{1F1EA}", "\u3069\u3053\u3067\u751F\u308C\u3002Yes", "Apples are \u308A\u3093\u3054 \u6797\u6A8E",
    "the unaffable cats sat unwantedly, running", "xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx y", "<unk> [UNK] <s>a</s>", "\u2581already \u2581marked"];
for (let i = 0; i < 110; i++) {
    let text = "";
    for (let n = 1 + random(24); n > 0; n--) {
        const [first, last] = pick(ranges);
        text += random(5) === 0 ? " " : String.fromCodePoint(first + random(last - first + 1));
    }
    texts.push(text);
}

const file = (model, parts = {}) => ({ version: "1.0", truncation: null, padding: null, added_tokens: [], normalizer: null, pre_tokenizer: null, post_processor: null, decoder: null, ...parts, model });
const added = (id, content) => ({ id, content, single_word: false, lstrip: false, rstrip: false, normalized: false, special: true });
const ascii = [..."abcdefghijklmnopqrstuvwxyz0123456789.,!?'-"];

// Words that occur in the texts, so that pieces of several characters are met.
const pieces = ["un", "want", "ed", "ly", "runn", "ing", "aff", "able", "the", "cat", "sat", "hell", "wor", "ld", "he", "ll", "o", "\u3054", "\u6797", "\u03b1", "\u0434", "\uac00", "\u00e9"];
const wordPiece = prefix => {
    const vocab = {};
    for (const t of ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", ...ascii, ...pieces, ...ascii.map(c => prefix + c), ...pieces.map(p => prefix + p)]) if (!(t in vocab)) vocab[t] = Object.keys(vocab).length;
    return { type: "WordPiece", unk_token: "[UNK]", continuing_subword_prefix: prefix, max_input_chars_per_word: 40, vocab };
};
const unigram = fallback => {
    const vocab = [["<s>", 0], ["</s>", 0], ["<unk>", 0], ["\u2581", -2.1]];
    for (const [i, t] of [...pieces, ...pieces.map(p => "\u2581" + p)].entries()) vocab.push([t, -3 - 0.37 * i]);
    // With bytes some tokens stand there twice, which is allowed: the last one counts.
    for (const [i, t] of ascii.entries()) if (fallback || !pieces.includes(t)) vocab.push([t, -6 - 0.13 * i]);
    if (fallback) for (let b = 0; b < 256; b++) vocab.push(["<0x" + b.toString(16).toUpperCase().padStart(2, "0") + ">", -30]);
    return { type: "Unigram", unk_id: 2, vocab, byte_fallback: fallback };
};
const bytes = () => {
    const vocab = { "\u2581": 0, "<unk>": 1 };
    for (let b = 0; b < 256; b++) vocab["<0x" + b.toString(16).toUpperCase().padStart(2, "0") + ">"] = b + 2;
    return { type: "BPE", dropout: null, unk_token: "<unk>", continuing_subword_prefix: null, end_of_word_suffix: null, fuse_unk: false, byte_fallback: true, ignore_merges: false, vocab, merges: [] };
};
const words = list => ({ type: "WordLevel", unk_token: list[0], vocab: Object.fromEntries(list.map((w, i) => [w, i])) });
const meta = { type: "Metaspace", replacement: "\u2581", prepend_scheme: "always", split: true };
const shown = step => ({ type: "Sequence", pretokenizers: [step, { ...meta, split: false }] });
const bert = { clean_text: true, handle_chinese_chars: true, strip_accents: null, lowercase: true };
const template = { type: "TemplateProcessing", single: [{ SpecialToken: { id: "<s>", type_id: 0 } }, { Sequence: { id: "A", type_id: 0 } }, { SpecialToken: { id: "</s>", type_id: 0 } }], pair: [{ Sequence: { id: "A", type_id: 0 } }, { Sequence: { id: "B", type_id: 1 } }], special_tokens: { "<s>": { id: "<s>", ids: [0], tokens: ["<s>"] }, "</s>": { id: "</s>", ids: [1], tokens: ["</s>"] } } };

// A map of replacements as SentencePiece compiles it: a double array over UTF-8 (darts-clone) and texts that end with a zero.
function charsMap(rules) {
    const blob = [], keys = [];
    for (const [from, to] of rules) { keys.push({ key: Buffer.from(from), value: blob.length }); blob.push(...Buffer.from(to), 0); }
    keys.sort((a, b) => Buffer.compare(a.key, b.key));
    let units = new Array(256).fill(0);
    const used = new Set([0]);
    const place = (node, under, depth) => {
        const leaf = under[0].key.length === depth ? under[0] : null;
        const labels = [...new Set(under.filter(k => k.key.length > depth).map(k => k.key[depth]))];
        let base = 1;
        while (used.has(base) || labels.some(l => used.has(base ^ l))) base++;
        while (units.length <= (base | 255)) units = units.concat(new Array(256).fill(0));
        units[node] = ((units[node] & 0xff) | ((base ^ node) << 10) | (leaf ? 256 : 0)) >>> 0;
        used.add(base);
        if (leaf) units[base] = (leaf.value | 0x80000000) >>> 0;
        for (const l of labels) { used.add(base ^ l); units[base ^ l] = l; }
        for (const l of labels) place(base ^ l, under.filter(k => k.key.length > depth && k.key[depth] === l), depth + 1);
    };
    place(0, keys, 0);
    const map = Buffer.alloc(4 + units.length * 4 + blob.length);
    map.writeUInt32LE(units.length * 4, 0);
    units.forEach((u, i) => map.writeUInt32LE(u, 4 + 4 * i));
    Buffer.from(blob).copy(map, 4 + units.length * 4);
    return map.toString("base64");
}
const rules = [["\t", " "], ["\n", " "], ["\r", " "], ["\u0000", ""], ["\u200B", ""], ["\u00AD", ""], ["e\u0301", "\u00E9"], ["q", "Q"]];
for (const [first, last] of [[0xa0, 0x24f], [0x2000, 0x214f], [0x3000, 0x30ff], [0xfb00, 0xfb06], [0xff00, 0xff5f], [0x2460, 0x2473]])
    for (let c = first; c <= last; c++) { const s = String.fromCodePoint(c), n = s.normalize("NFKC"); if (n !== s) rules.push([s, n]); }
const precompiled = { type: "Precompiled", precompiled_charsmap: charsMap(rules) };

const cases = {
    "bert": file(wordPiece("##"), { normalizer: { type: "BertNormalizer", ...bert }, pre_tokenizer: { type: "BertPreTokenizer" }, post_processor: { type: "BertProcessing", sep: ["[SEP]", 3], cls: ["[CLS]", 2] }, decoder: { type: "WordPiece", prefix: "##", cleanup: true }, added_tokens: [added(0, "[PAD]"), added(1, "[UNK]"), added(2, "[CLS]"), added(3, "[SEP]")] }),
    "bert, with case and accents": file(wordPiece("@@"), { normalizer: { type: "BertNormalizer", ...bert, lowercase: false, handle_chinese_chars: false }, pre_tokenizer: { type: "BertPreTokenizer" }, decoder: { type: "WordPiece", prefix: "@@", cleanup: false } }),
    "word pieces without a prefix": file(wordPiece(""), { pre_tokenizer: { type: "Whitespace" } }),
    "roberta's processing": file(wordPiece("##"), { normalizer: { type: "BertNormalizer", ...bert, strip_accents: true, clean_text: false, lowercase: false }, pre_tokenizer: { type: "WhitespaceSplit" }, post_processor: { type: "RobertaProcessing", sep: ["[SEP]", 3], cls: ["[CLS]", 2], trim_offsets: true, add_prefix_space: true } }),
    "t5": file(unigram(false), { normalizer: { type: "Sequence", normalizers: [precompiled, { type: "Strip", strip_left: false, strip_right: true }, { type: "Replace", pattern: { Regex: " {2,}" }, content: "\u2581" }] }, pre_tokenizer: meta, post_processor: template, decoder: meta, added_tokens: [added(0, "<s>"), added(1, "</s>"), added(2, "<unk>")] }),
    "xlm-roberta": file(unigram(false), { normalizer: precompiled, pre_tokenizer: { type: "Sequence", pretokenizers: [{ type: "WhitespaceSplit" }, { ...meta, prepend_scheme: "first" }] }, decoder: { ...meta, prepend_scheme: "first" } }),
    "unigrams and bytes": file(unigram(true), { normalizer: { type: "Sequence", normalizers: [{ type: "Nmt" }, { type: "NFKC" }] }, pre_tokenizer: { ...meta, split: false }, decoder: { type: "Sequence", decoders: [{ type: "ByteFallback" }, { ...meta, split: false }] } }),
    "unigrams without spaces": file(unigram(false), {}),
    "nmt": file(bytes(), { normalizer: { type: "Nmt" } }),
    "accents stripped": file(bytes(), { normalizer: { type: "Sequence", normalizers: [{ type: "NFD" }, { type: "StripAccents" }, { type: "Lowercase" }] } }),
    "marks stripped": file(bytes(), { normalizer: { type: "StripAccents" } }),
    "replaced by a map": file(bytes(), { normalizer: precompiled }),
    "scripts": file(bytes(), { pre_tokenizer: shown({ type: "UnicodeScripts" }) }),
    "punctuation, contiguous": file(bytes(), { pre_tokenizer: shown({ type: "Punctuation", behavior: "Contiguous" }) }),
    "a delimiter": file(bytes(), { pre_tokenizer: shown({ type: "CharDelimiterSplit", delimiter: "a" }) }),
    "bytes, then digits": file(bytes(), { pre_tokenizer: shown({ type: "Sequence", pretokenizers: [{ type: "ByteLevel", add_prefix_space: true, trim_offsets: true, use_regex: true }, { type: "Digits", individual_digits: true }] }) }),
    "words with suffixes": file({ ...bytes(), byte_fallback: false, unk_token: null, end_of_word_suffix: "</w>", vocab: Object.fromEntries([...ascii, ...ascii.map(c => c + "</w>"), "th", "the</w>", "ca", "cat", "cats</w>"].map((t, i) => [t, i])), merges: ["t h", "th e</w>", "c a", "ca t", "cat s</w>"] }, { normalizer: { type: "Lowercase" }, pre_tokenizer: { type: "BertPreTokenizer" }, decoder: { type: "BPEDecoder", suffix: "</w>" } }),
    "words with prefixes": file({ ...bytes(), byte_fallback: false, unk_token: null, continuing_subword_prefix: "##", vocab: Object.fromEntries([...ascii, ...ascii.map(c => "##" + c), "th", "the", "##at", "cat"].map((t, i) => [t, i])), merges: ["t ##h", "th ##e", "##a ##t", "c ##at"] }, { pre_tokenizer: { type: "Whitespace" } }),
    "speech": file(words(["<unk>", "<pad>", "|", "a", "b", " .", "'s"]), { decoder: { type: "CTC", pad_token: "<pad>", word_delimiter_token: "|", cleanup: true } }),
    "speech, as it is": file(words(["<unk>", "<pad>", "|", "a", "b", " .", "<pad>a<pad>"]), { decoder: { type: "CTC", pad_token: "<pad>", word_delimiter_token: "|", cleanup: false } }),
};

const out = [];
for (const [name, json] of Object.entries(cases)) {
    const tokenizer = Tokenizer.fromString(JSON.stringify(json));
    const rows = [];
    for (const text of texts) {
        const plain = (await tokenizer.encode(text, null, { addSpecialTokens: false })).getIds();
        const full = (await tokenizer.encode(text, null, { addSpecialTokens: true })).getIds();
        rows.push([[...plain], full.length === plain.length ? null : [...full], await tokenizer.decode([...full], false)]);
    }
    // Ids at random, in which neighbours are often equal, as in speech.
    const decoded = [];
    const size = Math.min(tokenizer.getVocabSize(), 120);
    for (let i = 0; i < 25; i++) {
        const ids = [];
        for (let n = 1 + random(14); n > 0; n--) ids.push(ids.length > 0 && random(3) === 0 ? ids[ids.length - 1] : random(size));
        decoded.push([ids, await tokenizer.decode(ids, false)]);
    }
    out.push(`{"name":${JSON.stringify(name)},"tokenizer":${JSON.stringify(json)},\n"rows":[\n${rows.map(r => JSON.stringify(r)).join(",\n")}],\n"decoded":[\n${decoded.map(r => JSON.stringify(r)).join(",\n")}]}`);
    console.log(name, rows.length);
}
const asciiOnly = s => s.replace(/[\u007f-\uffff]/g, c => "\\u" + c.charCodeAt(0).toString(16).padStart(4, "0"));
fs.writeFileSync(process.argv[2], asciiOnly(`{"texts":[\n${texts.map(t => JSON.stringify(t)).join(",\n")}],\n"cases":[\n${out.join(",\n")}\n]}\n`));
process.exit(0);
