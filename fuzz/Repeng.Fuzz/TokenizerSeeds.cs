namespace Repeng.Fuzz;

/// <summary>Small tokenizers with every kind of part.</summary>
internal static class TokenizerSeeds
{
    public static IReadOnlyList<string> All { get; } =
    [
        """{"version":"1.0","truncation":null,"padding":null,"added_tokens":[{"id":9,"content":"<|im_start|>","single_word":false,"lstrip":true,"rstrip":false,"normalized":false,"special":true}],"normalizer":{"type":"NFC"},"pre_tokenizer":{"type":"Sequence","pretokenizers":[{"type":"Split","pattern":{"Regex":"(?i:'s|'t)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1,3}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s+(?!\\S)|\\s+"},"behavior":"Isolated","invert":false},{"type":"ByteLevel","add_prefix_space":false,"trim_offsets":true,"use_regex":false}]},"post_processor":{"type":"TemplateProcessing","single":[{"SpecialToken":{"id":"<s>","type_id":0}},{"Sequence":{"id":"A","type_id":0}}],"pair":[],"special_tokens":{"<s>":{"id":"<s>","ids":[9],"tokens":["<|im_start|>"]}}},"decoder":{"type":"ByteLevel"},"model":{"type":"BPE","dropout":null,"unk_token":null,"continuing_subword_prefix":null,"end_of_word_suffix":null,"fuse_unk":false,"byte_fallback":false,"ignore_merges":true,"vocab":{"a":0,"b":1,"l":2,"o":3,"Ġ":4,"ab":5,"lo":6,"H":7,"e":8},"merges":["a b",["l","o"]]}}""",
        """{"added_tokens":[{"id":0,"content":"<unk>","special":true}],"normalizer":{"type":"Sequence","normalizers":[{"type":"Prepend","prepend":"▁"},{"type":"Replace","pattern":{"String":" "},"content":"▁"},{"type":"Replace","pattern":{"Regex":" {2,}"},"content":"x"},{"type":"Strip","strip_left":true,"strip_right":false},{"type":"Lowercase"},{"type":"NFKD"}]},"pre_tokenizer":{"type":"Metaspace","replacement":"▁","prepend_scheme":"first","split":true},"post_processor":{"type":"BertProcessing","sep":["<unk>",0],"cls":["<unk>",0]},"decoder":{"type":"Sequence","decoders":[{"type":"Replace","pattern":{"String":"▁"},"content":" "},{"type":"ByteFallback"},{"type":"Fuse"},{"type":"Strip","content":" ","start":1,"stop":0}]},"model":{"type":"BPE","unk_token":"<unk>","fuse_unk":true,"byte_fallback":true,"vocab":{"<unk>":0,"<0x0A>":1,"▁":2,"a":3,"▁a":4},"merges":["▁ a"]}}""",
        """{"added_tokens":[],"normalizer":null,"pre_tokenizer":{"type":"Sequence","pretokenizers":[{"type":"WhitespaceSplit"},{"type":"Punctuation","behavior":"MergedWithNext"},{"type":"Digits","individual_digits":true},{"type":"CharDelimiterSplit","delimiter":"x"}]},"post_processor":null,"decoder":{"type":"BPEDecoder","suffix":"</w>"},"model":{"type":"WordLevel","vocab":{"hello":0,"[UNK]":1},"unk_token":"[UNK]"}}""",
        """{"added_tokens":[{"id":3,"content":"<pad>","special":true}],"normalizer":{"type":"Nmt"},"pre_tokenizer":{"type":"Metaspace","replacement":"▁","prepend_scheme":"always","split":false},"post_processor":{"type":"RobertaProcessing","sep":["<pad>",3],"cls":["<pad>",3],"trim_offsets":true,"add_prefix_space":false},"decoder":{"type":"Metaspace","replacement":"▁","prepend_scheme":"always","split":false},"model":{"type":"Unigram","unk_id":0,"byte_fallback":false,"vocab":[["<unk>",0.0],["▁",-2.5],["▁Hello",-3.25],["<pad>",0.0],["w",-4.0],["l",-4.5]]}}""",
        """{"added_tokens":[{"id":0,"content":"[UNK]","special":true},{"id":1,"content":"[CLS]","special":true}],"normalizer":{"type":"BertNormalizer","clean_text":true,"handle_chinese_chars":true,"strip_accents":null,"lowercase":true},"pre_tokenizer":{"type":"BertPreTokenizer"},"post_processor":null,"decoder":{"type":"WordPiece","prefix":"##","cleanup":true},"model":{"type":"WordPiece","unk_token":"[UNK]","continuing_subword_prefix":"##","max_input_chars_per_word":100,"vocab":{"[UNK]":0,"[CLS]":1,"hello":2,"w":3,"##o":4,"##r":5,"12":6}}}""",
    ];

    public static IReadOnlyList<string> Configs { get; } =
    [
        """{"bos_token":{"content":"<|im_start|>"},"eos_token":"<|im_end|>","pad_token":null,"chat_template":[{"name":"default","template":"{{ messages[0].content }}"},{"name":"tool_use","template":"x"}],"add_bos_token":true,"model_max_length":1e30}""",
    ];

    public static IReadOnlyList<string> Words { get; } =
    [
        "\"type\":\"", "BPE", "Unigram", "WordPiece", "WordLevel", "Sequence", "Split", "ByteLevel", "Metaspace", "Digits", "BertNormalizer", "Precompiled", "StripAccents", "Nmt", "NFKC", "TemplateProcessing", "ByteFallback", "Fuse", "CTC",
        "\"pattern\":{\"Regex\":\"", "(a*)*", "(?i:", "\\\\p{L}", "\\\\s+(?!\\\\S)", "{1,3}", "[^", "(?<!", "\"vocab\":{", "\"merges\":[", "[\"a\",\"b\"]", "[[\"a\",-1.5],", "\"behavior\":\"Removed\"", "\"invert\":true", "\"special\":true", "\"lstrip\":true",
    ];
}
