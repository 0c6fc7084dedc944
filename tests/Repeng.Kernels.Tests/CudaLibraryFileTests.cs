using System.Runtime.InteropServices;
using Repeng.Kernels.Cuda;
using Repeng.Kernels.Cuda.Interop;

namespace Repeng.Kernels.Tests;

/// <summary>Where NVIDIA's libraries are looked for. A library that every .NET runtime brings stands in for one of theirs.</summary>
public sealed class CudaLibraryFileTests : IDisposable
{
    private const string Name = "librepeng-stand-in.so.13", Exported = "SystemNative_Malloc";

    private readonly string _root = Directory.CreateTempSubdirectory("repeng-libraries").FullName;

    public void Dispose() => Directory.Delete(_root, recursive: true);

    [Fact]
    public void AToolkitIsFoundWhereItSaysThatItIs()
    {
        string path = StandIn("toolkit/lib64");
        (nint library, string? name) = Open(("CUDA_HOME", Path.Combine(_root, "toolkit")));
        Assert.Equal(path, name);
        Assert.NotEqual(0, library);
        NativeLibrary.Free(library);
        Assert.Equal((0, null), Open(("CUDA_HOME", _root)));
        Assert.Equal((0, null), Open(("CUDA_HOME", "toolkit")));
    }

    [Fact]
    public void NamedFoldersAreTheOnlyOnes()
    {
        StandIn("toolkit/lib64");
        Directory.CreateDirectory(Path.Combine(_root, "empty"));
        string path = StandIn("own");
        Assert.Equal((0, null), Open((CudaLibraries.Switch, Path.Combine(_root, "empty")), ("CUDA_HOME", Path.Combine(_root, "toolkit"))));
        (nint library, string? name) = Open((CudaLibraries.Switch, string.Join(Path.PathSeparator, Path.Combine(_root, "empty"), Path.Combine(_root, "own"))));
        Assert.Equal(path, name);
        NativeLibrary.Free(library);
    }

    [Fact]
    public void WhatIsWrongWithAFolderOrAFileIsSaid()
    {
        string missing = Path.Combine(_root, "missing");
        Assert.Equal($"REPENG_CUDA_LIBRARIES: there is no folder {missing}; give folders with NVIDIA's libraries, or none to go without them", Refused([Exported], (CudaLibraries.Switch, missing)));
        string folder = Path.GetDirectoryName(StandIn("old"))!;
        Assert.StartsWith($"CUDA: {Path.Combine(folder, Name)} has no function cublasLtMatmul, it is of the wrong version", Refused([Exported, "cublasLtMatmul"], (CudaLibraries.Switch, folder)));
        File.WriteAllText(Path.Combine(folder, Name), "not a library");
        string message = Refused([Exported], (CudaLibraries.Switch, folder));
        Assert.StartsWith($"CUDA: {Path.Combine(folder, Name)} cannot be loaded (", message);
        Assert.DoesNotContain('\n', message);
    }

    private string Refused(string[] functions, (string Name, string Value) variable) =>
        Assert.Throws<UserErrorException>(() => CudaLibraryFile.Open([Name], [], functions, v => v == variable.Name ? variable.Value : null)).Message;

    private static (nint Library, string? Name) Open(params (string Name, string Value)[] environment) =>
        CudaLibraryFile.Open(["libnone.so.1", Name], [], [Exported], v => environment.FirstOrDefault(e => e.Name == v).Value);

    private string StandIn(string folder)
    {
        Assert.SkipWhen(OperatingSystem.IsWindows(), "the runtime brings no such library on Windows");
        string own = RuntimeEnvironment.GetRuntimeDirectory(), path = Path.Combine(Directory.CreateDirectory(Path.Combine(_root, folder)).FullName, Name);
        File.Copy(Directory.GetFiles(own, "*System.Native.*").First(f => Path.GetExtension(f) is ".so" or ".dylib"), path);
        return path;
    }
}
