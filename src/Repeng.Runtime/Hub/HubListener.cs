namespace Repeng.Runtime.Hub;

/// <summary>Hears what a fetch does; members are called by several threads at once.</summary>
public class HubListener
{
    /// <summary>Something that a person should know: waiting for another process or for the server, a part that is fetched anew.</summary>
    public virtual void Note(string text) { }

    /// <summary>A file begins.</summary>
    /// <param name="name">Its path in the repository.</param>
    /// <param name="size">Its bytes; -1 where the server does not tell.</param>
    /// <param name="have">Bytes that an earlier run left.</param>
    public virtual void Begin(string name, long size, long have) { }

    /// <summary>Bytes that came in; negative where some have to be fetched again.</summary>
    public virtual void Received(string name, long bytes) { }

    /// <summary>A file is complete, checked and in its place.</summary>
    public virtual void Done(string name) { }
}
