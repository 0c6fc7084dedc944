using CsCheck;
using Repeng.Fuzz;
using Repeng.Testing;

namespace Repeng.Steering.Tests.Hostile;

/// <summary>
/// Every reader of files on damaged inputs: it accepts them or says in one line what is wrong with which file, in bounded
/// time and memory. The same targets as the long runs of fuzz/Repeng.Fuzz.
/// </summary>
public sealed class DamagedFileTests : IDisposable
{
    private readonly string _folder = Directory.CreateTempSubdirectory("repeng-damage-").FullName;

    public void Dispose() => Directory.Delete(_folder, recursive: true);

    public static TheoryData<string> Readers => [.. FuzzTargets.All.Select(t => t.Name)];

    [Theory]
    [MemberData(nameof(Readers))]
    public void A_reader_holds(string name)
    {
        FuzzTarget target = FuzzTargets.All.Single(t => t.Name == name);
        byte[][] seeds = [.. target.Seeds(_folder)];
        Action<byte[]> run = target.Open(_folder);
        foreach (byte[] seed in seeds)
            Assert.Null(FuzzTarget.Judge(run, seed, _folder));
        // What earlier long runs found worth keeping.
        string corpus = Path.Combine(Golden.Repository, "fuzz", "corpus", name);
        foreach (string file in Directory.Exists(corpus) ? Directory.GetFiles(corpus) : [])
            Assert.Null(FuzzTarget.Judge(run, File.ReadAllBytes(file), _folder));
        Gen.Select(Gen.Int[0, seeds.Length - 1], Gen.Int[0, seeds.Length - 1], Gen.Int).Sample((first, second, draw) =>
        {
            byte[] input = new Mutator(draw, target.Words).Mutate(seeds[first], seeds[second]);
            Assert.Null(FuzzTarget.Judge(run, input, _folder));
        }, iter: 250, threads: 1);
    }
}
