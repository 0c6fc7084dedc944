using Repeng.Cli.Reports;
using Repeng.Kernels;
using Repeng.Steering.Adapters;
using Repeng.Steering.Demo;
using Repeng.Steering.Evaluation;
using Repeng.Steering.Models;
using Repeng.Steering.Training;
using Repeng.Steering.Vectors;

namespace Repeng.Cli.Verbs;

/// <summary>Something that eval compares.</summary>
/// <param name="Name">For tables.</param>
/// <param name="Steering">What acts on the model.</param>
/// <param name="Source">Folder of an adapter or file of a vector; null for a baseline.</param>
/// <param name="Steered">Whether it takes a coefficient.</param>
/// <param name="Persona">What the questions are put under: null for the plain questions.</param>
internal sealed record EvalSubject(string Name, Steering.Generation.Steering Steering, string? Source, bool Steered, Func<ChoiceItem[]>? Persona = null);

/// <summary>Loads what is to be compared and makes the baselines. Owns adapters and vectors.</summary>
internal sealed class EvalMethods : IDisposable
{
    /// <summary>Name of the row without steering.</summary>
    public const string Unsteered = "no steering";

    // Enough pairs that a mean difference is settled, few enough that it costs little.
    private const int BaselinePairs = 64;
    private readonly ModelBundle _bundle;
    private readonly Session _session;
    private readonly List<EvalSubject> _subjects = [];
    private readonly List<IAdapter> _adapters = [];
    private readonly List<VectorControl> _controls = [];
    private readonly List<ControlVector> _vectors = [];

    public EvalMethods(ModelBundle bundle, Session session) => (_bundle, _session) = (bundle, session);

    /// <summary>In the order of the table.</summary>
    public IReadOnlyList<EvalSubject> Subjects => _subjects;

    /// <summary>Everything that a prompt or nothing at all can be measured beside.</summary>
    public void AddPlain(string name) => _subjects.Add(new EvalSubject(name, Steering.Generation.Steering.None, null, false));

    /// <summary>A saved adapter.</summary>
    public void AddAdapter(string folder, bool alone)
    {
        _adapters.Add(AdapterFile.LoadAny(_bundle.Model, folder));
        _subjects.Add(new EvalSubject(alone ? "adapter" : Free(Path.GetFileName(Path.TrimEndingDirectorySeparator(folder)), folder), new Steering.Generation.Steering(_adapters[^1]), folder, true));
    }

    /// <summary>Saved adapters as one method, each at the coefficient times its weight.</summary>
    public void AddCombined(string[] folders, float[] weights)
    {
        _adapters.Add(CombinedAdapter.Load(_bundle.Model, folders, weights));
        _subjects.Add(new EvalSubject(string.Join(" + ", folders.Select((f, i) => $"{weights[i].ToString("0.###", System.Globalization.CultureInfo.InvariantCulture)}·{Path.GetFileName(Path.TrimEndingDirectorySeparator(f))}")), new Steering.Generation.Steering(_adapters[^1]), null, true));
    }

    /// <summary>A control vector file.</summary>
    public void AddVector(string file, bool normalize)
    {
        ControlVector vector = ControlVectorFile.ReadFor(_bundle.Model, file, _session.Say);
        Add(Free(Path.GetFileNameWithoutExtension(file), file), vector, file, normalize);
        _vectors.Add(vector);
    }

    /// <summary>
    /// Mean difference, principal component and random directions on the blocks that are steered already (else on all but the
    /// first), and the personas as prompts. The last two vectors are in each layer as long as the first given vector where that
    /// is on blocks, else as the mean difference.
    /// </summary>
    public void AddBaselines(RunSettings texts, ulong seed, int seeds, Func<string?, DemoAudience?, ChoiceItem[]> items)
    {
        ControlVector? given = _vectors.FirstOrDefault(v => v.Layers.All(l => ControlVector.BlockOf(l) is not null));
        int count = _bundle.Model.Blocks.Count;
        int[] blocks = given is not null ? [.. given.Layers.Select(l => ControlVector.BlockOf(l)!.Value)]
            : _adapters.Count > 0 ? [.. _adapters[0].Modules.Select(m => LayerSelection.BlockOf(_bundle.Model, m)!.Value).Distinct().Order()]
            : [.. Enumerable.Range(Math.Min(1, count - 1), Math.Max(1, count - 1))];
        List<TokenPair> pairs = TrainRun.Pairs(_bundle, texts with { MaxPairs = texts.MaxPairs is > 0 and < BaselinePairs ? texts.MaxPairs : BaselinePairs });
        ControlVector mean = BlockVectors.MeanDifference(_bundle.Model, blocks, pairs, _bundle.PadId), like = given ?? mean;
        Add("mean difference", mean, null, false);
        Add("PCA", BlockVectors.PrincipalComponent(_bundle.Model, like, pairs, _bundle.PadId), null, false);
        for (int k = 0; k < seeds; k++)
            Add(seeds == 1 ? "random direction" : $"random direction, seed {seed + (ulong)k}", BlockVectors.RandomLike(like, seed + (ulong)k), null, false);
        if (_bundle.IsDemo)
            foreach (DemoAudience audience in new[] { DemoAudience.SeenTruthful, DemoAudience.SeenUntruthful })
                Prompt(TruthReport.Title(audience), () => items(null, audience));
        else
            foreach (string word in new[] { texts.Personas[0].Positive, texts.Personas[0].Negative })
                Prompt(word, () => items(texts.Template.Replace(PairTexts.Placeholder, word, StringComparison.Ordinal), null));

        void Prompt(string who, Func<ChoiceItem[]> make) => _subjects.Add(new EvalSubject($"prompt: {who}", Steering.Generation.Steering.None, null, false, make));
    }

    /// <inheritdoc/>
    public void Dispose()
    {
        _controls.ForEach(v => v.Dispose());
        _adapters.ForEach(a => a.Dispose());
    }

    private void Add(string name, ControlVector vector, string? file, bool normalize)
    {
        // A file may be called like a baseline.
        if (file is null && _subjects.Any(s => s.Name == name))
            name += " (baseline)";
        _controls.Add(new VectorControl(_bundle.Model, vector, normalize));
        _subjects.Add(new EvalSubject(name, new Steering.Generation.Steering(null, _controls[^1]), file, true));
    }

    // Short names where they tell things apart; the same thing twice is a slip.
    private string Free(string name, string path)
    {
        if (_subjects.Any(s => s.Source is not null && Path.GetFullPath(s.Source) == Path.GetFullPath(path)))
            throw new UserErrorException($"{path} is given twice; leave one out");
        return _subjects.Any(s => s.Name == name) ? path : name;
    }
}
