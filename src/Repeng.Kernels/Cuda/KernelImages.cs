using System.Reflection;

namespace Repeng.Kernels.Cuda;

/// <summary>The compiled kernels (PTX) inside of this assembly: one image a .cu file, by its name.</summary>
public static class KernelImages
{
    private const string Prefix = "Repeng.Kernels.Cuda.", Suffix = ".ptx";

    /// <summary>Names of the images: elementwise, matmul, ….</summary>
    public static IReadOnlyList<string> Names { get; } =
        [.. typeof(KernelImages).Assembly.GetManifestResourceNames()
            .Where(n => n.StartsWith(Prefix, StringComparison.Ordinal) && n.EndsWith(Suffix, StringComparison.Ordinal))
            .Select(n => n[Prefix.Length..^Suffix.Length]).Order(StringComparer.Ordinal)];

    /// <summary>PTX text of an image, UTF-8. Throws <see cref="ArgumentException"/> for an unknown name.</summary>
    public static byte[] Read(string name) => ReadResource(Prefix + name + Suffix) ?? throw new ArgumentException($"no kernels named {name}; there are {string.Join(", ", Names)}");

    /// <summary>manifest.json of the images: sources' hashes, compiler, flags, parameters, registers.</summary>
    public static byte[] Manifest => ReadResource(Prefix + "manifest.json") ?? throw new InvalidOperationException("the assembly has no manifest of its kernels");

    private static byte[]? ReadResource(string name)
    {
        using Stream? stream = typeof(KernelImages).Assembly.GetManifestResourceStream(name);
        if (stream is null)
            return null;
        var bytes = new byte[stream.Length];
        stream.ReadExactly(bytes);
        return bytes;
    }
}
