using System.Text.Json.Nodes;
using Repeng.Kernels;
using Repeng.Runtime.Formats;

namespace Repeng.Runtime.Hub;

/// <summary>A file of a repository.</summary>
/// <param name="Name">Path in the repository, with forward slashes.</param>
/// <param name="Size">Bytes; null where the listing does not tell.</param>
/// <param name="Sha256">Of large files.</param>
internal sealed record HubFile(string Name, long? Size, string? Sha256);

/// <summary>What a repository holds at one commit.</summary>
internal sealed class HubListing
{
    private const long MostBytes = 64 << 20;
    private readonly Dictionary<string, HubFile> _files = new(StringComparer.Ordinal);

    private HubListing(string commit) => Commit = commit;

    /// <summary>The commit that the revision stands for.</summary>
    public string Commit { get; }

    /// <summary>All files that can have their name on every system.</summary>
    public IReadOnlyCollection<HubFile> Files => _files.Values;

    /// <summary>The file of a name; null when there is none.</summary>
    public HubFile? Find(string name) => _files.GetValueOrDefault(name);

    /// <summary>Asks the hub.</summary>
    public static async Task<HubListing> Read(HubHttp http, HubReference reference, HubSettings settings, CancellationToken stop)
    {
        Uri url = http.Address(["api", "models", .. reference.Repository.Split('/'), "revision", reference.Revision], "?blobs=true");
        using HubAnswer answer = await http.Send(HttpMethod.Get, url, $"{reference}", follow: false, range: null, patient: false, stop);
        if (!answer.Response.IsSuccessStatusCode)
            throw HubErrors.Refused(answer.Response, reference, null, settings);
        string where = $"{reference}, the listing of {url.Host}";
        byte[] bytes = await ReadAll(answer.Response, where, settings, stop);
        if (JsonFile.Parse(bytes, where) is not JsonObject json)
            throw FileErrors.Bad(where, "is no JSON object; is HF_ENDPOINT the address of a hub?");
        var fields = new JsonFields(json, where);
        string commit = fields.Text("sha");
        if (!HubReference.IsCommitText(commit))
            throw fields.Error("sha", $"{FileErrors.Quote(commit)} is no commit of 40 hexadecimal digits");
        var listing = new HubListing(commit);
        foreach (JsonNode? node in fields.OptionalArray("siblings") ?? throw fields.Error("siblings", "a list of files is needed"))
        {
            if (node is not JsonObject entry)
                throw fields.Error("siblings", "every entry must be an object");
            var file = new JsonFields(entry, where);
            string name = file.Text("rfilename");
            if (HubReference.IsSafePath(name))
                listing._files[name] = new HubFile(name, file.OptionalInteger("size", min: 0), file.OptionalObject("lfs") is { } lfs ? Sha(lfs) : null);
        }
        return listing;
    }

    private static string? Sha(JsonFields lfs)
    {
        string? sha = lfs.OptionalText("sha256");
        return sha is null || BlobHash.IsSha256(sha) ? sha : throw lfs.Error("sha256", $"{FileErrors.Quote(sha)} is no sha256");
    }

    private static async Task<byte[]> ReadAll(HttpResponseMessage response, string where, HubSettings settings, CancellationToken stop)
    {
        using CancellationTokenSource stall = CancellationTokenSource.CreateLinkedTokenSource(stop);
        try
        {
            await using Stream body = await response.Content.ReadAsStreamAsync(stop);
            var all = new MemoryStream();
            byte[] part = new byte[1 << 16];
            while (true)
            {
                stall.CancelAfter(settings.StallTimeout);
                int count = await body.ReadAsync(part, stall.Token);
                if (count == 0)
                    return all.ToArray();
                all.Write(part, 0, count);
                if (all.Length > MostBytes)
                    throw FileErrors.Bad(where, $"is longer than {MostBytes} bytes; is HF_ENDPOINT the address of a hub?");
            }
        }
        catch (Exception e) when (HubHttp.IsBroken(e, stop))
        {
            throw new HubUnreachableException($"{where} broke off: {HubErrors.Reason(e)}; run it again", e);
        }
    }
}
