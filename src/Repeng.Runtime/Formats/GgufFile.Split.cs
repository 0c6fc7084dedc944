using System.Globalization;
using System.Text.RegularExpressions;

namespace Repeng.Runtime.Formats;

/// <summary>
/// Models in several files (llama.cpp's gguf-split): NAME-00001-of-00003.gguf holds all metadata and perhaps tensors, the others
/// tensors; each says split.no, split.count and split.tensors.count.
/// </summary>
public sealed unsafe partial class GgufFile
{
    private const string NumberKey = "split.no", CountKey = "split.count", TensorsKey = "split.tensors.count";
    private const int MostParts = 65535;

    /// <summary>Opens a file and, where it is the first part of a split one, the other parts, whose tensors count as its own. Throws as <see cref="Open"/>, and for parts that are absent or do not belong together.</summary>
    public static GgufFile OpenWhole(string path)
    {
        GgufFile file = Open(path);
        try
        {
            if (file.Metadata.OptionalInteger(CountKey, 0, MostParts) is > 1 and var count)
                file.AddParts(path, (int)count);
            return file;
        }
        catch
        {
            file.Dispose();
            throw;
        }
    }

    private void AddParts(string path, int count)
    {
        Match name = PartName().Match(path);
        string Named(int part) => string.Create(CultureInfo.InvariantCulture, $"{(name.Success ? name.Groups["stem"].Value : "NAME")}-{part:00000}-of-{count:00000}.gguf");
        long number = Metadata.Integer(NumberKey, 0, count - 1);
        if (number != 0)
            throw FileErrors.Bad(path, $"is part {number + 1} of {count}; give the first one, which holds the metadata{(name.Success ? $": {Named(1)}" : "")}");
        if (!name.Success || Named(1) != path)
            throw FileErrors.Bad(path, $"is the first of {count} parts, and its name does not tell the others; such files are called {Named(1)}, {Named(2)} …");
        for (int part = 2; part <= count; part++)
        {
            if (!System.IO.File.Exists(Named(part)))
                throw FileErrors.Bad(path, $"is the first of {count} parts, and part {part} is not there: {Named(part)}; fetch all parts into one folder");
            GgufFile other = Open(Named(part));
            long itsNumber, itsCount;
            try
            {
                (itsNumber, itsCount) = (other.Metadata.Integer(NumberKey), other.Metadata.Integer(CountKey));
            }
            catch
            {
                other.Dispose();
                throw;
            }
            string? twice = Adopt(other);
            if (itsNumber != part - 1 || itsCount != count)
                throw FileErrors.Bad(Named(part), $"says that it is part {itsNumber + 1} of {itsCount}, its name part {part} of {count}; fetch it again");
            if (twice is not null)
                throw FileErrors.Bad(Named(part), $"tensor {FileErrors.Quote(twice)} is in an earlier part too; the parts do not belong together");
        }
        if (Metadata.OptionalInteger(TensorsKey) is { } tensors && tensors != Names.Count)
            throw FileErrors.Bad(path, $"its {count} parts should have {tensors} tensors ({TensorsKey}), they have {Names.Count}; the parts do not belong together");
    }

    [GeneratedRegex(@"\A(?<stem>.+)-[0-9]{5}-of-[0-9]{5}\.gguf\z", RegexOptions.Singleline | RegexOptions.CultureInvariant)]
    private static partial Regex PartName();
}
