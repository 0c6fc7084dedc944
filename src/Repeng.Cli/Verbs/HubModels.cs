using Repeng.Cli.Reports;
using Repeng.Runtime.Hub;
using Repeng.Steering.Models;

namespace Repeng.Cli.Verbs;

/// <summary>Models and adapters that are named as the hub names them, made ready for the verbs that take them.</summary>
internal static class HubModels
{
    /// <summary>Fetches what the cache lacks of a model, with progress; a model on this machine needs nothing.</summary>
    public static void Ready(Session session, string model)
    {
        if (model == ModelBundle.Demo || Directory.Exists(model) || File.Exists(model) || HubReference.TryParse(model) is null)
            return;
        var progress = new HubProgress(session);
        using var hub = new ModelHub(listener: progress);
        Watched(progress, () => ModelBundle.Locate(model, hub, session.Stop));
    }

    /// <summary>The folder or .gguf file of an adapter: as it is named, or from the hub.</summary>
    public static string? Adapter(Session session, string? adapter)
    {
        if (adapter is null || Directory.Exists(adapter) || File.Exists(adapter) || HubReference.TryParse(adapter) is not { } reference)
            return adapter;
        // One file is fetched in one way, whatever it holds.
        HubContent content = reference.File is null ? HubContent.Adapter : HubContent.Model;
        var progress = new HubProgress(session);
        using var hub = new ModelHub(listener: progress);
        return hub.Find(reference, content) ?? Watched(progress, () => hub.Resolve(reference, content, session.Stop));
    }

    /// <summary>Runs a fetch with its display; a stop says what is kept.</summary>
    public static T Watched<T>(HubProgress progress, Func<T> fetch)
    {
        try
        {
            return progress.Show(fetch);
        }
        catch (OperationCanceledException e)
        {
            throw new StoppedException("stopped; what was fetched is kept, the same command goes on behind it", e);
        }
    }
}

/// <summary>A stop that says for itself what it leaves.</summary>
public sealed class StoppedException(string message, Exception inner) : OperationCanceledException(message, inner);
