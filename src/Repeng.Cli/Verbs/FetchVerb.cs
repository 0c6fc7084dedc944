using System.CommandLine;
using System.Diagnostics;
using Repeng.Cli.Reports;
using Repeng.Kernels;
using Repeng.Runtime.Hub;

namespace Repeng.Cli.Verbs;

/// <summary>fetch: gets a model or an adapter of the hub into the cache and says where it lies.</summary>
public sealed class FetchVerb
{
    private readonly Argument<string> _name = new("repository") { Description = "org/name, org/name@revision, org/name:file.gguf (or a part of the file's name, such as org/name:Q4_K_M)", HelpName = "REPOSITORY" };
    private readonly Option<string?> _revision = Opt.Text("--revision", "REVISION", "branch, tag or commit (default main)");
    private readonly Option<string?> _gguf = Opt.Text("--gguf_file", "FILE", "GGUF file of the repository, or a part of its name");
    private readonly Option<bool?> _adapter = Opt.Flag("--adapter", "the repository is an adapter, ours or PEFT's, not a model");
    private readonly Session _session;

    private FetchVerb(Session session) => _session = session;

    /// <summary>The verb.</summary>
    public static Command Create(Session session)
    {
        var verb = new FetchVerb(session);
        var command = new Command("fetch", "Get a model or an adapter of the Hugging Face hub into the cache that all its programs share");
        command.Arguments.Add(verb._name);
        foreach (Option o in new Option[] { verb._revision, verb._gguf, verb._adapter })
            command.Options.Add(o);
        command.SetAction(verb.Run);
        return command;
    }

    private int Run(ParseResult p)
    {
        string name = p.GetValue(_name)!;
        HubReference reference = HubReference.TryParse(name, bareName: true) ?? throw new UserErrorException($"'{name}' is no repository of the hub; write org/name, org/name@revision or org/name:file.gguf");
        if (p.GetValue(_revision) is { } revision)
            reference = HubReference.TryParse($"{reference.Repository}@{revision}", bareName: true) is { File: null } at && reference.Revision == HubReference.Main
                ? reference with { Revision = at.Revision }
                : throw new UserErrorException($"--revision {revision}: {(reference.Revision == HubReference.Main ? "is no branch, tag or commit" : $"'{name}' names a revision already; leave one out")}");
        if (p.GetValue(_gguf) is { } file)
            reference = HubReference.TryParse($"{reference.Repository}:{file}", bareName: true) is { } with && reference.File is null
                ? reference with { File = with.File }
                : throw new UserErrorException($"--gguf_file {file}: {(reference.File is null ? "is no name of a file in a repository" : $"'{name}' names a file already; leave one out")}");
        bool adapter = p.GetValue(_adapter) == true;
        if (adapter && reference.File is not null)
            throw new UserErrorException("--adapter beside a GGUF file: an adapter is a whole repository; leave one out");

        var progress = new HubProgress(_session);
        using var hub = new ModelHub(listener: progress);
        var watch = Stopwatch.StartNew();
        string path = HubModels.Watched(progress, () => hub.Fetch(reference, adapter ? HubContent.Adapter : HubContent.Model, _session.Stop));
        _session.Say(progress.Files == 0 ? $"{reference}: all of it was there" : $"{reference}: {progress.Files} files, {Format.Bytes(progress.Fetched)} in {Format.Duration(watch.Elapsed.TotalSeconds)}");
        _session.Print(path);
        return ExitCodes.Ok;
    }
}
