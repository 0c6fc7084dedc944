using System.Net;
using System.Net.Http.Headers;
using Repeng.Kernels;

namespace Repeng.Runtime.Hub;

/// <summary>
/// Requests to the hub and to where it sends them on. The access token goes to the hub's own address and nowhere else.
/// Busy and broken servers are asked again, after the time that they name or a growing one.
/// </summary>
internal sealed class HubHttp : IDisposable
{
    private const int MostRedirects = 10;

    private readonly HubSettings _settings;
    private readonly HubListener _listener;
    private readonly HttpClient _client;

    public HubHttp(HubSettings settings, HubListener listener)
    {
        (_settings, _listener) = (settings, listener);
        var handler = new SocketsHttpHandler
        {
            // Redirects are followed by hand: the token must stay here, and the hub's own headers stand in the first answer.
            AllowAutoRedirect = false,
            AutomaticDecompression = DecompressionMethods.None,
            UseCookies = false,
            ConnectTimeout = settings.ConnectTimeout,
            PooledConnectionLifetime = TimeSpan.FromMinutes(10),
        };
        _client = new HttpClient(handler) { Timeout = Timeout.InfiniteTimeSpan };
        _client.DefaultRequestHeaders.UserAgent.Add(new ProductInfoHeaderValue("repeng-native", typeof(HubHttp).Assembly.GetName().Version?.ToString(3) ?? "0"));
    }

    /// <summary>An address of the hub: its parts, each escaped, below the endpoint.</summary>
    public Uri Address(IEnumerable<string> parts, string query = "") =>
        new(_settings.Endpoint.AbsoluteUri.TrimEnd('/') + "/" + string.Join('/', parts.Select(Uri.EscapeDataString)) + query);

    /// <summary>
    /// Asks once for something and again while the server is busy or cannot be reached. The answer is the caller's to
    /// dispose; its status is not looked at otherwise.
    /// </summary>
    /// <param name="what">What error messages and notes call it.</param>
    /// <param name="follow">Whether redirects to other hosts are followed; those on the hub itself always are.</param>
    /// <param name="range">First and last byte, or null for everything.</param>
    /// <param name="patient">Whether a network that is away is waited for.</param>
    public async Task<HubAnswer> Send(HttpMethod method, Uri url, string what, bool follow, (long From, long To)? range, bool patient, CancellationToken stop)
    {
        // Who begins with no network wants to hear that soon; a long download may wait for it to come back.
        int unreachable = patient ? _settings.Attempts : Math.Min(3, _settings.Attempts);
        for (int failures = 0; ;)
        {
            HubAnswer? answer = null;
            string trouble;
            TimeSpan? asked = null;
            Exception? cause = null;
            try
            {
                answer = await SendOnce(method, url, follow, range, stop);
                if (!IsBusy(answer.Response.StatusCode))
                    return answer;
                trouble = HubErrors.Status(answer.Response);
                asked = RetryAfter(answer.Response);
            }
            catch (Exception e) when (IsBroken(e, stop))
            {
                (trouble, cause) = (HubErrors.Reason(e), e);
            }
            HttpStatusCode? status = answer?.Response.StatusCode;
            answer?.Dispose();
            if (asked > _settings.LongestWait)
                throw HubErrors.Busy(what, status, $"it asks to wait {asked.Value.TotalSeconds:F0} s", _settings);
            if (++failures >= (status is null ? unreachable : _settings.Attempts))
                throw cause is null ? HubErrors.Busy(what, status, $"after {failures} requests", _settings) : new HubUnreachableException(HubErrors.Unreachable(what, url, trouble, _settings), cause);
            await Pause(what, trouble, failures, asked, stop);
        }
    }

    /// <summary>Waits before the next request: what the server asks for, else from half a second on twice as long each time.</summary>
    public async Task Pause(string what, string trouble, int failures, TimeSpan? asked, CancellationToken stop)
    {
        // Some spread keeps many clients of one busy server from coming back together.
        TimeSpan wait = asked ?? TimeSpan.FromSeconds(Math.Min(0.5 * Math.Pow(2, failures - 1), 16) * (0.75 + 0.5 * Random.Shared.NextDouble()));
        if (wait >= TimeSpan.FromSeconds(1))
            _listener.Note(FormattableString.Invariant($"{what}: {trouble}; next request in {wait.TotalSeconds:F0} s"));
        await _settings.Wait(wait, stop);
    }

    /// <summary>Whether an exception is the network's, which a further request may mend.</summary>
    public static bool IsBroken(Exception e, CancellationToken stop) =>
        e is HttpRequestException or IOException or OperationCanceledException or System.Net.Sockets.SocketException && !stop.IsCancellationRequested
        && e is not UserErrorException;

    /// <summary>Statuses of a server that may answer later.</summary>
    public static bool IsBusy(HttpStatusCode status) => status is HttpStatusCode.TooManyRequests or HttpStatusCode.RequestTimeout || (int)status is >= 500 and not 501;

    /// <inheritdoc/>
    public void Dispose() => _client.Dispose();

    private async Task<HubAnswer> SendOnce(HttpMethod method, Uri url, bool follow, (long From, long To)? range, CancellationToken stop)
    {
        HubHeaders headers = default;
        for (int hops = 0; ; hops++)
        {
            var request = new HttpRequestMessage(method, url);
            request.Headers.AcceptEncoding.ParseAdd("identity");
            if (range is { } r)
                request.Headers.Range = new RangeHeaderValue(r.From, r.To);
            if (_settings.Token is { } token && IsHub(url))
                request.Headers.Authorization = new AuthenticationHeaderValue("Bearer", token);
            HttpResponseMessage response;
            using (CancellationTokenSource stall = CancellationTokenSource.CreateLinkedTokenSource(stop))
            {
                stall.CancelAfter(_settings.StallTimeout + _settings.ConnectTimeout);
                response = await _client.SendAsync(request, HttpCompletionOption.ResponseHeadersRead, stall.Token);
            }
            if (IsHub(url))
                headers = headers.With(response);
            if ((int)response.StatusCode is not (301 or 302 or 303 or 307 or 308) || response.Headers.Location is not { } location)
                return new HubAnswer(response, url, headers);
            Uri next = new(url, location);
            if (!follow && !IsHub(next))
                return new HubAnswer(response, url, headers);
            response.Dispose();
            if (next.Scheme is not ("https" or "http") || url.Scheme == "https" && next.Scheme != "https")
                throw new UserErrorException($"{url.Host} sends on to {next.Scheme}://{next.Host}, which is no safe address; nothing was fetched");
            if (hops >= MostRedirects)
                throw new UserErrorException($"{url.Host} sends on more than {MostRedirects} times; nothing was fetched");
            url = next;
        }
    }

    private bool IsHub(Uri url) => Uri.Compare(url, _settings.Endpoint, UriComponents.SchemeAndServer, UriFormat.SafeUnescaped, StringComparison.OrdinalIgnoreCase) == 0;

    private static TimeSpan? RetryAfter(HttpResponseMessage response) => response.Headers.RetryAfter switch
    {
        { Delta: { } delta } => delta,
        { Date: { } date } => date > DateTimeOffset.UtcNow ? date - DateTimeOffset.UtcNow : TimeSpan.Zero,
        _ => null,
    };
}

/// <summary>An answer with the headers that the hub itself gave on the way to it.</summary>
internal sealed record HubAnswer(HttpResponseMessage Response, Uri From, HubHeaders Hub) : IDisposable
{
    /// <inheritdoc/>
    public void Dispose() => Response.Dispose();
}

/// <summary>What the hub says of a file beside the answer's body.</summary>
/// <param name="Commit">X-Repo-Commit.</param>
/// <param name="Etag">X-Linked-Etag, else ETag, without quotes.</param>
/// <param name="Size">X-Linked-Size, else of an answer that is not sent on its length; null where unknown.</param>
internal readonly record struct HubHeaders(string? Commit, string? Etag, long? Size)
{
    public HubHeaders With(HttpResponseMessage response)
    {
        bool final = (int)response.StatusCode is >= 200 and < 300;
        string? etag = Header(response, "X-Linked-Etag") ?? (final || Commit is null ? response.Headers.ETag?.Tag ?? Header(response, "ETag") : null);
        long? size = long.TryParse(Header(response, "X-Linked-Size"), System.Globalization.CultureInfo.InvariantCulture, out long linked) ? linked
            : (int)response.StatusCode == 200 ? response.Content.Headers.ContentLength : null;
        return new HubHeaders(Header(response, "X-Repo-Commit") ?? Commit, etag is null ? Etag : Bare(etag), size ?? Size);
    }

    public static string? Header(HttpResponseMessage response, string name) => response.Headers.TryGetValues(name, out IEnumerable<string>? values) ? values.FirstOrDefault() : null;

    private static string Bare(string etag)
    {
        if (etag.StartsWith("W/", StringComparison.Ordinal))
            etag = etag[2..];
        return etag.Trim('"');
    }
}

/// <summary>The hub cannot be reached at all; a cache may still serve.</summary>
internal sealed class HubUnreachableException(string message, Exception inner) : UserErrorException(message, inner);
