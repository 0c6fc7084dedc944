using System.Net;
using System.Net.Sockets;
using Repeng.Kernels;

namespace Repeng.Runtime.Hub;

/// <summary>What a person can do when the hub says no.</summary>
internal static class HubErrors
{
    public static string Status(HttpResponseMessage response) => $"{response.RequestMessage?.RequestUri?.Host} answers {(int)response.StatusCode} ({response.ReasonPhrase})";

    /// <summary>The innermost reason of a broken connection, in one line.</summary>
    public static string Reason(Exception e) => e switch
    {
        OperationCanceledException => "no answer in time",
        { InnerException: SocketException socket } => socket.Message,
        { InnerException: { } inner } when e is HttpRequestException => Reason(inner),
        _ => e.Message.ReplaceLineEndings(" ").TrimEnd('.'),
    };

    public static string Unreachable(string what, Uri url, string reason, HubSettings settings) =>
        $"{what}: {url.Host} cannot be reached ({reason}); check the network and HF_ENDPOINT, or put the model into the cache {settings.CacheFolder}";

    public static UserErrorException Busy(string what, HttpStatusCode? status, string detail, HubSettings settings) => status == HttpStatusCode.TooManyRequests
        ? new($"{what}: the hub allows no more requests now (429), {detail}; wait some minutes{(settings.Token is null ? ", or give an access token in HF_TOKEN, which raises the limit" : "")}; what is here already is kept")
        : new($"{what}: the server fails with status {(int?)status}, {detail}; try again later, what is here already is kept");

    /// <summary>The error of an answer that is neither success nor worth another request.</summary>
    public static UserErrorException Refused(HttpResponseMessage response, HubReference reference, string? file, HubSettings settings)
    {
        string code = HubHeaders.Header(response, "X-Error-Code") ?? "";
        string said = HubHeaders.Header(response, "X-Error-Message") is { Length: > 0 } text ? $" (it says: {Formats.FileErrors.Quote(text)})" : "";
        string page = $"{settings.Endpoint.AbsoluteUri.TrimEnd('/')}/{reference.Repository}";
        string where = file is null ? $"{reference}" : $"{reference}, {file}";
        string token = settings.Token is null ? "give an access token in HF_TOKEN, or log in with 'hf auth login'" : "the access token in use may lack the right to read it, or be of another account";
        return ((int)response.StatusCode, code) switch
        {
            (401 or 403, "GatedRepo") => new($"{where}: the repository is gated{said}; accept its terms on {page} with your account, {(settings.Token is null ? $"then {token}" : $"and wait until access is granted; {token}")}"),
            (404, "RevisionNotFound") => new($"{where}: the repository has no revision '{reference.Revision}'; see {page}/tree/main for its branches and tags"),
            (404, "EntryNotFound") => new($"{where}: the repository has no such file at {reference.Revision}; see {page}/tree/{reference.Revision}"),
            (401, _) or (404, "RepoNotFound") or (404, "") => new($"{where}: no repository of that name on {settings.Endpoint.Host} that may be seen, and no folder or file of that name here; check the spelling; where it is private, {token}"),
            (403, _) => new($"{where}: the hub refuses access (403){said}; {token}"),
            _ => new($"{where}: {Status(response)}{said}; nothing was fetched"),
        };
    }
}
