using Repeng.Kernels;

namespace Repeng.Runtime.Formats;

/// <summary>
/// Tensors spread over several safetensors files, found through an index (model.safetensors.index.json:
/// weight_map from tensor name to file name beside the index). Holds every file open.
/// </summary>
public sealed unsafe class ShardedSafetensors : ITensorSource
{
    /// <summary>Name of the index in a model folder.</summary>
    public const string IndexName = "model.safetensors.index.json";

    /// <summary>Name of the file in a model folder that is not sharded.</summary>
    public const string SingleName = "model.safetensors";

    private readonly Dictionary<string, SafetensorsFile> _byName = new(StringComparer.Ordinal);
    private readonly List<string> _names = [];
    private readonly List<SafetensorsFile> _files = [];

    private ShardedSafetensors(string indexPath) => Description = indexPath;

    /// <inheritdoc/>
    public string Description { get; }

    /// <inheritdoc/>
    public IReadOnlyList<string> Names => _names;

    /// <summary>
    /// Opens what a path means: a .safetensors file, an index, or a folder that holds model.safetensors or else an
    /// index (the order in which transformers looks). The caller disposes it.
    /// </summary>
    public static ITensorSource OpenModel(string path)
    {
        if (!Directory.Exists(path))
            return path.EndsWith(".json", StringComparison.OrdinalIgnoreCase) ? Open(path) : SafetensorsFile.Open(path);
        string single = Path.Combine(path, SingleName), index = Path.Combine(path, IndexName);
        if (File.Exists(single))
            return SafetensorsFile.Open(single);
        if (File.Exists(index))
            return Open(index);
        if (Directory.EnumerateFiles(path, "*.bin").FirstOrDefault() is { } pickle)
            throw FileErrors.Bad(path, $"holds no {SingleName}, only {Path.GetFileName(pickle)}: pickled weights are programs and are not run; look for a conversion of the model to safetensors");
        throw FileErrors.Bad(path, $"holds neither {SingleName} nor {IndexName}; fetch the weights, or check the path");
    }

    /// <summary>Opens an index and every file it names; <see cref="UserErrorException"/> for anything missing or wrong.</summary>
    public static ShardedSafetensors Open(string indexPath)
    {
        JsonFields map = JsonFile.ReadObject(indexPath).Object("weight_map");
        var source = new ShardedSafetensors(indexPath);
        try
        {
            string folder = Path.GetDirectoryName(Path.GetFullPath(indexPath))!;
            var files = new Dictionary<string, SafetensorsFile>(StringComparer.Ordinal);
            var holders = new Dictionary<string, string>(StringComparer.Ordinal);
            foreach ((string name, _) in map.Json)
            {
                string fileName = map.Text(name);
                if (!files.TryGetValue(fileName, out SafetensorsFile? file))
                {
                    string path = Path.Combine(folder, CheckedName(fileName, name, map));
                    if (!File.Exists(path))
                        throw FileErrors.Bad(indexPath, $"tensor {FileErrors.Quote(name)} is said to lie in {FileErrors.Quote(fileName)}, and there is no such file beside the index; fetch all of its files");
                    file = SafetensorsFile.Open(path);
                    source._files.Add(file);
                    files.Add(fileName, file);
                    foreach (string held in file.Names)
                        if (!holders.TryAdd(held, fileName))
                            throw FileErrors.Bad(indexPath, $"tensor {FileErrors.Quote(held)} lies in {FileErrors.Quote(holders[held])} and in {FileErrors.Quote(fileName)}; which one is meant is not known, fetch the model again or leave the files of one version only");
                }
                if (!file.TryGetInfo(name, out _))
                    throw FileErrors.Bad(indexPath, $"tensor {FileErrors.Quote(name)} is said to lie in {FileErrors.Quote(fileName)}, which does not hold it; index and files do not belong together");
                source._byName.Add(name, file);
                source._names.Add(name);
            }
            return source;
        }
        catch
        {
            source.Dispose();
            throw;
        }
    }

    /// <inheritdoc/>
    public bool TryGetInfo(string name, out TensorInfo info)
    {
        info = default;
        return _byName.TryGetValue(name, out SafetensorsFile? file) && file.TryGetInfo(name, out info);
    }

    /// <inheritdoc/>
    public void ReadF32(string name, long firstRow, long rows, float* destination) => Find(name).ReadF32(name, firstRow, rows, destination);

    /// <inheritdoc/>
    public void ReadRaw(string name, long firstRow, long rows, byte* destination) => Find(name).ReadRaw(name, firstRow, rows, destination);

    /// <inheritdoc/>
    public bool TryMap(string name, out MappedBytes bytes) => Find(name).TryMap(name, out bytes);

    /// <inheritdoc/>
    public void Dispose()
    {
        foreach (SafetensorsFile file in _files)
            file.Dispose();
    }

    private SafetensorsFile Find(string name) => _byName.TryGetValue(name, out SafetensorsFile? file) ? file : throw MappedTensorSource.Missing(this, name);

    private static string CheckedName(string fileName, string tensor, JsonFields map)
    {
        // An index comes from a stranger; it must not reach outside its own folder.
        if (fileName.Length == 0 || fileName is "." or ".." || fileName.AsSpan().IndexOfAny("/\\:") >= 0 || fileName.Any(char.IsControl))
            throw map.Error(tensor, $"{FileErrors.Quote(fileName)} is no file name beside the index");
        return fileName;
    }
}
