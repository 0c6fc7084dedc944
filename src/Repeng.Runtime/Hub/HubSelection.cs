using System.Text.RegularExpressions;
using Repeng.Kernels;
using Repeng.Runtime.Formats;

namespace Repeng.Runtime.Hub;

/// <summary>What is wanted of a repository.</summary>
public enum HubContent
{
    /// <summary>A model: configuration, tokenizer, chat template, weights in safetensors; or one GGUF file.</summary>
    Model,

    /// <summary>An adapter, ours or PEFT's.</summary>
    Adapter,
}

/// <summary>Which files of a repository are needed, and whether a snapshot has them.</summary>
internal static partial class HubSelection
{
    private const string Config = "config.json", Tokenizer = "tokenizer.json", TokenizerConfig = "tokenizer_config.json";
    private const string AdapterConfig = "adapter_config.json", AdapterWeights = "adapter_model.safetensors";

    // Everything that our reader or transformers opens beside the weights; all small.
    private static readonly string[] s_small =
    [
        Config, "generation_config.json", Tokenizer, TokenizerConfig, "special_tokens_map.json", "added_tokens.json", "vocab.json", "merges.txt", "vocab.txt",
        "tokenizer.model", "spiece.model", "sentencepiece.bpe.model", "chat_template.jinja", "chat_template.json",
    ];

    private static readonly string[] s_adapter = [AdapterConfig, AdapterWeights, "svd_bases.safetensors", "calibration.json"];

    /// <summary>Files of a model's folder that come before the weights, in the order in which they are fetched.</summary>
    public static IEnumerable<HubFile> Small(HubListing listing) =>
        s_small.Select(listing.Find).OfType<HubFile>().Concat(listing.Files.Where(f => f.Name.StartsWith("additional_chat_templates/", StringComparison.Ordinal) && f.Name.EndsWith(".jinja", StringComparison.Ordinal)));

    /// <summary>Names that a model's folder may have and this one has not; readers need not ask again.</summary>
    public static IEnumerable<string> Absent(HubListing listing) => s_small.Where(n => listing.Find(n) is null);

    /// <summary>Files of an adapter.</summary>
    public static IEnumerable<HubFile> Adapter(HubListing listing, HubReference reference)
    {
        if (listing.Find(AdapterConfig) is null || listing.Find(AdapterWeights) is null)
            throw new UserErrorException($"{reference}: is no adapter: it has no {(listing.Find(AdapterConfig) is null ? AdapterConfig : AdapterWeights)}; it has {Few(listing.Files.Select(f => f.Name))}");
        return s_adapter.Select(listing.Find).OfType<HubFile>();
    }

    /// <summary>The name of the weights, or of their index.</summary>
    public static HubFile Weights(HubListing listing, HubReference reference)
    {
        if (listing.Find(ShardedSafetensors.SingleName) is { } single)
            return single;
        if (listing.Find(ShardedSafetensors.IndexName) is { } index)
            return index;
        if (listing.Find(AdapterWeights) is not null)
            throw new UserErrorException($"{reference}: is an adapter, not a model; give it as --adapter beside the --model that its {AdapterConfig} names");
        string[] gguf = [.. listing.Files.Select(f => f.Name).Where(IsGguf)];
        if (gguf.Length > 0)
            throw new UserErrorException($"{reference}: has GGUF files and no safetensors; say which one: {reference}:{gguf[0]}{(gguf.Length > 1 ? $" (it has {Few(gguf)})" : "")}");
        string? pickle = listing.Files.Select(f => f.Name).FirstOrDefault(n => n.EndsWith(".bin", StringComparison.Ordinal) || n.EndsWith(".pt", StringComparison.Ordinal) || n.EndsWith(".pth", StringComparison.Ordinal));
        throw new UserErrorException($"{reference}: has no {ShardedSafetensors.SingleName} and no {ShardedSafetensors.IndexName}{(pickle is null ? $"; it has {Few(listing.Files.Select(f => f.Name))}" : $", only pickled weights ({pickle}), which are programs and are not run; look for a conversion of it to safetensors")}");
    }

    /// <summary>Files that an index of shards names.</summary>
    public static IEnumerable<HubFile> Shards(HubListing listing, string indexFile)
    {
        JsonFields map = JsonFile.ReadObject(indexFile).Object("weight_map");
        foreach (string name in map.Json.Select(p => map.Text(p.Key)).Distinct(StringComparer.Ordinal))
            yield return listing.Find(name) ?? throw FileErrors.Bad(indexFile, $"names the shard {FileErrors.Quote(name)}, which the repository does not have");
    }

    /// <summary>The GGUF file that is meant, with its further parts where it is split.</summary>
    public static HubFile[] Gguf(HubListing listing, HubReference reference)
    {
        string[] all = [.. listing.Files.Select(f => f.Name).Where(IsGguf).Order(StringComparer.Ordinal)];
        string name = PickGguf(all, reference);
        Match part = SplitName().Match(name);
        if (!part.Success)
            return [listing.Find(name)!];
        int count = int.Parse(part.Groups["of"].Value, System.Globalization.CultureInfo.InvariantCulture);
        string[] parts = [.. Enumerable.Range(1, count).Select(i => $"{part.Groups["stem"].Value}-{i:00000}-of-{count:00000}.gguf")];
        return [.. parts.Select(p => listing.Find(p) ?? throw new UserErrorException($"{reference}: {name} is one of {count} parts, and {p} is not there"))];
    }

    /// <summary>The one GGUF name that a wish fits: the whole path, the file name, or a part of it such as Q4_K_M.</summary>
    public static string PickGguf(IReadOnlyCollection<string> names, HubReference reference)
    {
        string wish = reference.File!;
        if (names.Contains(wish))
            return wish;
        string[] fit = [.. names.Where(n => Path.GetFileName(n).Equals(wish, StringComparison.OrdinalIgnoreCase))];
        if (fit.Length == 0 && !IsGguf(wish))
        {
            // Q4_K must not mean Q4_K_M: the wish has to end where a word of the name ends.
            fit = [.. names.Where(n => Regex.IsMatch(Path.GetFileName(n), $"(^|[^A-Za-z0-9]){Regex.Escape(wish)}([.-]|$)", RegexOptions.IgnoreCase | RegexOptions.CultureInvariant))];
            // Of a split file the first part stands for all.
            if (fit.Length > 1 && fit.All(n => SplitName().IsMatch(n)) && fit.Select(n => SplitName().Match(n).Groups["stem"].Value).Distinct().Count() == 1)
                fit = [fit.Order(StringComparer.Ordinal).First()];
        }
        return fit.Length switch
        {
            1 => fit[0],
            0 => throw new UserErrorException($"{reference}: {(names.Count == 0 ? "the repository has no GGUF files" : $"no GGUF file is called '{wish}' or has that in its name; there are {Few(names)}")}"),
            _ => throw new UserErrorException($"{reference}: several GGUF files fit '{wish}': {Few(fit)}; give one name whole"),
        };
    }

    /// <summary>What a snapshot gives without asking the hub: the folder of a model or adapter, a GGUF file, or null where something is missing.</summary>
    /// <param name="lenient">Whether a missing tokenizer configuration counts as nonexistent, for when the hub cannot be asked.</param>
    public static string? Complete(HubCache cache, HubReference reference, HubContent content, string commit, bool lenient)
    {
        string folder = cache.Snapshot(reference.Repository, commit);
        if (!Directory.Exists(folder))
            return null;
        bool Has(string name) => HubCache.IsThere(Path.Combine(folder, name));
        if (content == HubContent.Adapter)
            return Has(AdapterConfig) && Has(AdapterWeights) ? folder : null;
        if (reference.File is not null)
            return CachedGguf(folder, reference);
        if (!Has(Config) || !Has(Tokenizer) || !Has(TokenizerConfig) && !lenient && !cache.KnownAbsent(reference.Repository, commit, TokenizerConfig))
            return null;
        if (Has(ShardedSafetensors.SingleName))
            return folder;
        string index = Path.Combine(folder, ShardedSafetensors.IndexName);
        if (!HubCache.IsThere(index))
            return null;
        JsonFields map = JsonFile.ReadObject(index).Object("weight_map");
        return map.Json.Select(p => map.Text(p.Key)).Distinct(StringComparer.Ordinal).All(n => HubReference.IsSafePath(n) && Has(n)) ? folder : null;
    }

    private static string? CachedGguf(string folder, HubReference reference)
    {
        string[] names = [.. Directory.EnumerateFiles(folder, "*", SearchOption.AllDirectories).Where(f => IsGguf(f) && HubCache.IsThere(f)).Select(f => Path.GetRelativePath(folder, f).Replace('\\', '/'))];
        string? name = names.Contains(reference.File) ? reference.File : null;
        try
        {
            name ??= PickGguf(names, reference);
        }
        catch (UserErrorException)
        {
            // What is cached does not decide which file is meant; the hub's own listing does.
            return null;
        }
        Match part = SplitName().Match(name!);
        if (part.Success && Enumerable.Range(1, int.Parse(part.Groups["of"].Value, System.Globalization.CultureInfo.InvariantCulture)).Any(i => !names.Contains($"{part.Groups["stem"].Value}-{i:00000}-of-{part.Groups["of"].Value}.gguf")))
            return null;
        return Path.Combine(folder, name!.Replace('/', Path.DirectorySeparatorChar));
    }

    private static bool IsGguf(string name) => name.EndsWith(".gguf", StringComparison.OrdinalIgnoreCase);

    private static string Few(IEnumerable<string> names)
    {
        string[] all = [.. names.Order(StringComparer.Ordinal)];
        return all.Length == 0 ? "no files" : string.Join(", ", all.Take(8)) + (all.Length > 8 ? $" and {all.Length - 8} more" : "");
    }

    [GeneratedRegex(@"\A(?<stem>.+)-\d{5}-of-(?<of>\d{5})\.gguf\z", RegexOptions.IgnoreCase)]
    private static partial Regex SplitName();
}
