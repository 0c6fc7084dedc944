namespace Repeng.PtxEmulator.Tests;

/// <summary>The PTX that the product ships (kernels/ptx): every module loads, and every instruction of every kernel is decoded.</summary>
public sealed class ShippedKernelTests
{
    public static TheoryData<string> Modules
    {
        get
        {
            string? root = AppContext.BaseDirectory;
            while (root is not null && !File.Exists(Path.Combine(root, "Repeng.Native.sln")))
                root = Path.GetDirectoryName(root);
            string folder = Environment.GetEnvironmentVariable("REPENG_PTX") ?? Path.Combine(root ?? ".", "kernels", "ptx");
            return [.. Directory.Exists(folder) ? Directory.GetFiles(folder, "*.ptx").Order().ToArray() : []];
        }
    }

    [Theory(SkipTestWithoutData = true)]
    [MemberData(nameof(Modules))]
    public void Loads(string path)
    {
        using var gpu = new Gpu();
        PtxModule module = gpu.Load(File.ReadAllText(path));
        Assert.NotEmpty(module.Kernels);
        foreach (string kernel in module.Kernels)
            Assert.Equal(kernel, module.GetFunction(kernel).Name);
        Assert.StartsWith("sm_", module.Target);
    }
}
