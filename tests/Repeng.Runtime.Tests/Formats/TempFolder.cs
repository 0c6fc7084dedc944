namespace Repeng.Runtime.Tests.Formats;

/// <summary>A folder for one test, removed at its end.</summary>
public sealed class TempFolder : IDisposable
{
    /// <summary>Absolute path.</summary>
    public string Root { get; } = Directory.CreateTempSubdirectory("repeng-test-").FullName;

    /// <summary>Path of a file in it.</summary>
    public string File(string name) => Path.Combine(Root, name);

    /// <summary>Writes a file in it and gives its path.</summary>
    public string File(string name, ReadOnlySpan<byte> content)
    {
        string path = File(name);
        System.IO.File.WriteAllBytes(path, content);
        return path;
    }

    /// <inheritdoc/>
    public void Dispose() => Directory.Delete(Root, recursive: true);
}
