using System.Globalization;
using System.Numerics;
using System.Text;

namespace Repeng.Runtime.Hub;

/// <summary>
/// A small file beside one that is being fetched: the state of its SHA-256 behind its first bytes, and a quick sum of
/// these bytes, so that the next run need not hash what it can see to be unchanged.
/// </summary>
/// <param name="path">The note's own file.</param>
internal sealed class HashNote(string path) : IDisposable
{
    private FileStream? _file;
    private bool _off;

    /// <summary>What a note says.</summary>
    /// <param name="Length">Bytes that are hashed, whole blocks.</param>
    /// <param name="State">The state behind them.</param>
    /// <param name="Sum"><see cref="QuickSum.Text"/> of them.</param>
    public readonly record struct Content(long Length, uint[] State, string Sum);

    /// <summary>What an earlier run noted; null where there is nothing, or only a part of it.</summary>
    public Content? Read()
    {
        try
        {
            // One line of known form; what is longer is none.
            if (new FileInfo(path) is not { Exists: true, Length: < 256 })
                return null;
            string[] words = File.ReadAllText(path).TrimEnd('\n').Split(' ');
            if (words is not ["sha256", var length, var state, var sum, var check] || Check($"sha256 {length} {state} {sum}") != check || state.Length != 8 * OpenSslSha256.Words)
                return null;
            _ = new QuickSum(sum);
            return new Content(long.Parse(length, CultureInfo.InvariantCulture), [.. state.Chunk(8).Select(w => uint.Parse(w, NumberStyles.HexNumber, CultureInfo.InvariantCulture))], sum);
        }
        catch (Exception e) when (e is IOException or UnauthorizedAccessException or FormatException or OverflowException)
        {
            return null;
        }
    }

    /// <summary>Notes how far the hash is. Nothing depends on it: where it cannot be written, the next run hashes all.</summary>
    public void Write(long length, uint[] state, string sum)
    {
        if (_off)
            return;
        try
        {
            _file ??= new FileStream(path, FileMode.Create, FileAccess.Write, FileShare.Read, bufferSize: 0);
            string line = FormattableString.Invariant($"sha256 {length:d19} {string.Concat(state.Select(w => w.ToString("x8", CultureInfo.InvariantCulture)))} {sum}");
            // All lines are of one length, and half of a new one over an old one fails its check.
            RandomAccess.Write(_file.SafeFileHandle, Encoding.ASCII.GetBytes($"{line} {Check(line)}\n"), 0);
        }
        catch (Exception e) when (e is IOException or UnauthorizedAccessException)
        {
            _off = true;
        }
    }

    /// <summary>Takes it away; from then on nothing is noted.</summary>
    public void Delete()
    {
        Dispose();
        _off = true;
        try
        {
            File.Delete(path);
        }
        catch (Exception e) when (e is IOException or UnauthorizedAccessException)
        {
            // What it says is compared with the file before it is used.
        }
    }

    /// <inheritdoc/>
    public void Dispose()
    {
        _file?.Dispose();
        _file = null;
    }

    private static string Check(string line)
    {
        uint crc = ~0u;
        foreach (byte b in Encoding.ASCII.GetBytes(line))
            crc = BitOperations.Crc32C(crc, b);
        return crc.ToString("x8", CultureInfo.InvariantCulture);
    }
}
