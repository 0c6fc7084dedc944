using System.Runtime;

namespace Repeng.Cli;

/// <summary>
/// Names of the methods that the last start of the same verb compiled: the runtime compiles them on another core while the program
/// already runs (multicore JIT). The files are kept in the person's cache; of another build of the program they are ignored and written anew.
/// </summary>
public static class StartProfile
{
    /// <summary>Begins to use and renew the profile of the verb that a command line begins with; nothing where it begins with none, or the folder is no whole path.</summary>
    /// <param name="folder">Where the profiles lie; made when it is missing.</param>
    public static void Begin(string folder, IReadOnlyList<string> args)
    {
        // Without a home the cache would be a folder beside the person's files.
        if (args is not [var verb, ..] || !CliApp.Verbs.Contains(verb) || !Path.IsPathFullyQualified(folder))
            return;
        try
        {
            Directory.CreateDirectory(folder);
        }
        catch (Exception e) when (e is IOException or UnauthorizedAccessException)
        {
            // Without a cache the program starts as it did the first time; no verb needs it for its work.
            return;
        }
        ProfileOptimization.SetProfileRoot(folder);
        ProfileOptimization.StartProfile(verb);
    }
}
