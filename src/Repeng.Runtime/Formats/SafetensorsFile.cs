using System.Buffers.Binary;
using Repeng.Kernels;

namespace Repeng.Runtime.Formats;

/// <summary>
/// A safetensors file (github.com/huggingface/safetensors, "Format"): 8 bytes header length, JSON header, data.
/// The whole header is checked at opening; nothing of the data is read before it is asked for.
/// </summary>
public sealed class SafetensorsFile : MappedTensorSource
{
    // The reference library's limit.
    private const ulong LongestHeader = 100_000_000;

    private SafetensorsFile(MappedFile file, SafetensorsHeader header, long dataStart) : base(file)
    {
        Metadata = header.Metadata;
        foreach (SafetensorsEntry e in header.Entries)
            TryAdd(new TensorInfo(e.Name, e.Shape, e.Type.Name, e.Elements, e.End - e.Begin), e.Type, dataStart + e.Begin);
    }

    /// <summary>The free texts under __metadata__; empty where there are none.</summary>
    public IReadOnlyDictionary<string, string> Metadata { get; }

    /// <summary>Opens one file; <see cref="UserErrorException"/> that names file, tensor and numbers for anything wrong in it.</summary>
    public static SafetensorsFile Open(string path)
    {
        MappedFile file = MappedFile.Open(path);
        try
        {
            if (file.Length < 8)
                throw FileErrors.Bad(path, $"{file.Length} bytes are too few for a safetensors file, whose header length alone takes 8");
            ulong headerBytes = BinaryPrimitives.ReadUInt64LittleEndian(file.Span(0, 8));
            if (headerBytes > LongestHeader)
                throw FileErrors.Bad(path, $"a safetensors header of {headerBytes} bytes is announced, at most {LongestHeader} are allowed; the file is damaged or no safetensors file");
            if (headerBytes > (ulong)file.Length - 8)
                throw FileErrors.Bad(path, $"a safetensors header of {headerBytes} bytes is announced, the file has {file.Length} bytes in all; it is cut short or no safetensors file");
            long dataStart = 8 + (long)headerBytes;
            SafetensorsHeader header = SafetensorsHeader.Parse(file.Span(8, (int)headerBytes), file.Length - dataStart, path);
            return new SafetensorsFile(file, header, dataStart);
        }
        catch
        {
            file.Dispose();
            throw;
        }
    }
}
