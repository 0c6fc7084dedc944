using System.Text.Json;
using Repeng.Kernels;

namespace Repeng.Runtime.Tokenizers;

/// <summary>What a post-processor puts around a single sequence. Offsets and pairs, its other work, do not matter here.</summary>
internal static class PostProcessing
{
    /// <summary>Adds the ids in front and at the end, outermost last processor first.</summary>
    /// <exception cref="UserErrorException">The section is malformed, names an unknown id or a processor that is not supported.</exception>
    public static void Read(JsonSection section, TokenizerIds ids, List<int> prefix, List<int> suffix)
    {
        switch (section.Type)
        {
            case "Sequence":
                foreach (JsonSection part in section.Sections("processors"))
                    Read(part, ids, prefix, suffix);
                break;
            case "ByteLevel":
                break;
            case "TemplateProcessing":
                ReadTemplate(section, ids, prefix, suffix);
                break;
            case "BertProcessing" or "RobertaProcessing":
                prefix.Insert(0, ReadPair(section, "cls", ids));
                suffix.Add(ReadPair(section, "sep", ids));
                break;
            default:
                throw section.UnknownType("Sequence, ByteLevel, TemplateProcessing, BertProcessing, RobertaProcessing");
        }
    }

    private static void ReadTemplate(JsonSection section, TokenizerIds ids, List<int> prefix, List<int> suffix)
    {
        Dictionary<string, int[]> special = [];
        if (section.TryGet("special_tokens", out _))
        {
            foreach ((string name, _) in section.Section("special_tokens").Properties())
                special[name] = [.. section.Section("special_tokens").Section(name).Numbers("ids").Select(id => Check(section, id, ids))];
        }
        List<int> before = [], after = [];
        bool passed = false;
        foreach (JsonSection item in section.Sections("single"))
        {
            foreach ((string kind, _) in item.Properties())
            {
                string id = item.Section(kind).Text("id");
                if (kind == "Sequence" && id == "A" && !passed)
                    passed = true;
                else if (kind == "SpecialToken" && special.TryGetValue(id, out int[]? tokens))
                    (passed ? after : before).AddRange(tokens);
                else
                    throw item.Error($"{kind} {JsonSection.Quote(id)} does not fit: 'single' must hold Sequence A once, and names of 'special_tokens'");
            }
        }
        if (!passed)
            throw section.Error("'single' does not hold Sequence A");
        prefix.InsertRange(0, before);
        suffix.AddRange(after);
    }

    private static int ReadPair(JsonSection section, string name, TokenizerIds ids)
    {
        if (!section.TryGet(name, out JsonElement pair) || pair.ValueKind != JsonValueKind.Array || pair.GetArrayLength() != 2
            || pair[1].ValueKind != JsonValueKind.Number || !pair[1].TryGetInt32(out int id))
            throw section.Error($"'{name}' must be a token and its id");
        return Check(section, id, ids);
    }

    private static int Check(JsonSection section, int id, TokenizerIds ids) =>
        ids.TryGetToken(id, out _) ? id : throw section.Error($"the id {id} is no token's");
}
