using System.Reflection;
using Repeng.Testing;

namespace Repeng.Cli.Tests;

/// <summary>The arrows of the house run one way: Cli → Steering → Autograd → Runtime → Kernels.</summary>
public sealed class HouseTests
{
    private static readonly string[] s_order = ["Repeng.Kernels", "Repeng.Runtime", "Repeng.Autograd", "Repeng.Steering", "repeng-native"];

    [Fact]
    public void Assemblies_refer_only_downwards()
    {
        for (int i = 0; i < s_order.Length; i++)
        {
            Assembly assembly = Assembly.Load(s_order[i]);
            foreach (AssemblyName reference in assembly.GetReferencedAssemblies())
            {
                int at = Array.IndexOf(s_order, reference.Name);
                Assert.True(at < i, $"{s_order[i]} refers to {reference.Name}, which stands above it");
            }
        }
    }

    [Fact]
    public void Library_assemblies_depend_on_the_framework_alone_but_for_the_messages_of_logs()
    {
        foreach (string name in s_order[..^1])
            foreach (AssemblyName reference in Assembly.Load(name).GetReferencedAssemblies())
                Assert.True(reference.Name!.StartsWith("System", StringComparison.Ordinal) || reference.Name.StartsWith("Repeng.", StringComparison.Ordinal) || reference.Name is "netstandard" or "mscorlib"
                    || (name, reference.Name) is ("Repeng.Runtime", "Google.Protobuf"),
                    $"{name} depends on {reference.Name}");
    }

    [Fact]
    public void Source_files_are_short_enough_to_read()
    {
        string source = Path.Combine(Golden.Repository, "src");
        string[] tooLong = [.. Directory.GetFiles(source, "*.cs", SearchOption.AllDirectories)
            .Where(f => !f.Contains($"{Path.DirectorySeparatorChar}obj{Path.DirectorySeparatorChar}", StringComparison.Ordinal) && File.ReadLines(f).Count() > 600)];
        Assert.Empty(tooLong);
    }
}
