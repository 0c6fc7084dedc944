using System.Security.Cryptography;
using System.Text;

namespace Repeng.Runtime.Hub;

/// <summary>The hash that an etag of the hub is: sha256 of a large file's bytes, or sha1 of a small one as git makes it.</summary>
internal sealed class BlobHash : IDisposable
{
    private readonly IncrementalHash? _hash;
    private OpenSslSha256? _open;

    /// <param name="etag">64 or 40 hexadecimal digits; of anything else nothing is checked.</param>
    /// <param name="size">Bytes of the file, which git puts before them.</param>
    public BlobHash(string etag, long size)
    {
        Expected = etag;
        if (IsSha256(etag))
            _hash = (_open = OpenSslSha256.TryCreate()) is null ? IncrementalHash.CreateHash(HashAlgorithmName.SHA256) : null;
        else if (HubReference.IsCommitText(etag) && size >= 0)
        {
            _hash = IncrementalHash.CreateHash(HashAlgorithmName.SHA1);
            _hash.AppendData(Encoding.ASCII.GetBytes($"blob {size}\0"));
        }
    }

    /// <summary>The etag.</summary>
    public string Expected { get; }

    /// <summary>Name of the hash; null where the etag is none.</summary>
    public string? Kind => _open is not null ? "sha256" : _hash is null ? null : Expected.Length == 64 ? "sha256" : "git sha1";

    /// <summary>The hash where its state can be kept; null where it cannot.</summary>
    public OpenSslSha256? Kept => _open;

    /// <summary>Begins anew; only where the state can be kept.</summary>
    public void Restart() => _open = OpenSslSha256.TryCreate()!;

    /// <summary>Takes the next bytes.</summary>
    public void Append(ReadOnlySpan<byte> bytes)
    {
        if (_open is null)
            _hash?.AppendData(bytes);
        else
            _open.Append(bytes);
    }

    /// <summary>The hash of all bytes; the etag itself where there is nothing to check.</summary>
    public string Finish() => _open is not null ? Convert.ToHexStringLower(_open.Finish()) : _hash is null ? Expected : Convert.ToHexStringLower(_hash.GetHashAndReset());

    /// <summary>64 hexadecimal digits, lower case.</summary>
    public static bool IsSha256(string text) => text.Length == 64 && text.All(char.IsAsciiHexDigitLower);

    /// <inheritdoc/>
    public void Dispose() => _hash?.Dispose();
}
