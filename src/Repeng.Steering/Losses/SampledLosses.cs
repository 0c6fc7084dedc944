using Repeng.Kernels;

namespace Repeng.Steering.Losses;

/// <summary>Constants of the sampled losses; the defaults are those of the original (wassname/repeng).</summary>
public sealed record SampledLossSettings
{
    /// <summary>Distance beyond which the hinge is zero.</summary>
    public double HingeMargin { get; init; } = 1;

    /// <summary>Weight of the NLL margin: brings squared nats to the size of an L2 distance.</summary>
    public double MarginWeight { get; init; } = 1e4;

    /// <summary>
    /// The NLL margin's bound as a fraction of the log-probability. As log-probabilities are negative, 0.99 lies above
    /// them: the margin always acts, and its value is weight·(0.01·logp)².
    /// </summary>
    public double MarginFraction { get; init; } = 0.99;

    /// <summary>
    /// Hold the negative text's log-probability in the NLL margin where the positive one's belongs: what the last state
    /// of the original does by mistake, for comparison with it.
    /// </summary>
    public bool MarginOnNegative { get; init; }

    /// <summary>β of SimPO.</summary>
    public double SimPoBeta { get; init; } = 2;

    /// <summary>γ/β of SimPO: nats a token by which the positive text is to lead.</summary>
    public double SimPoGammaOverBeta { get; init; } = 0.25;

    /// <summary>β of DPO.</summary>
    public double DpoBeta { get; init; } = 0.1;

    /// <summary>β of KPO.</summary>
    public double KpoBeta { get; init; } = 0.1;

    /// <summary>ε of SimPO and DPO: −(1 − ε)·ln σ(x) − ε·ln σ(−x).</summary>
    public double LabelSmoothing { get; init; }

    /// <summary>Log-probabilities of the rows under the reference model, for dpo_ref.</summary>
    public IReadOnlyList<double>? ReferenceLogp { get; init; }
}

/// <summary>Value and gradients of a sampled loss.</summary>
/// <param name="Loss">Mean over the pairs.</param>
/// <param name="Parts">The terms that add up to the loss, by name: separation, coherence.</param>
/// <param name="HiddenGradient">dLoss/dhidden [rows, d].</param>
/// <param name="LogpGradient">dLoss/dlogp [rows].</param>
/// <param name="ReferenceLogpGradient">dLoss/d reference logp [rows]; null where the loss reads none.</param>
public sealed record SampledLossResult(
    double Loss, IReadOnlyDictionary<string, double> Parts, double[] HiddenGradient, double[] LogpGradient, double[]? ReferenceLogpGradient = null);

/// <summary>
/// Losses on pairs of texts whose gradients make control vectors. They are differentiated once a batch and never
/// trained with. All are means over pairs, in double precision, with gradients written out by hand; a norm that is
/// zero has the gradient zero. h are hidden rows at the tap, ℓ mean log-probabilities of the texts' tokens, + and −
/// the positive and the negative text, δ = h₊ − h₋.
/// <list type="table">
/// <item><term>reprpo_nll_margin</term><description>−‖δ‖ + w·relu(0.99·sg(ℓ₊) − ℓ₊)², sg: no gradient (compute_reprpo_nll_margin_loss)</description></item>
/// <item><term>reprpo_magnitude</term><description>−‖δ‖</description></item>
/// <item><term>reprpo_hinge</term><description>relu(1 − ‖δ‖)</description></item>
/// <item><term>cosine</term><description>cos(h₊, h₋)</description></item>
/// <item><term>simpo</term><description>−ln σ(β·(ℓ₊ − ℓ₋ − γ/β)) (Meng et al. 2024)</description></item>
/// <item><term>dpo</term><description>−ln σ(β·(ℓ₊ − ℓ₋)) (Rafailov et al. 2023, without a reference)</description></item>
/// <item><term>dpo_ref</term><description>−ln σ(β·((ℓ₊ − ℓ₋) − (ℓref₊ − ℓref₋)))</description></item>
/// <item><term>kpo</term><description>−ln σ(β·(‖h₊ − m‖ − 2‖h₋ − m‖)), m = (h₊ + h₋)/2, through which the gradient runs too</description></item>
/// </list>
/// </summary>
public static partial class SampledLosses
{
    /// <summary>The loss that reads a reference's log-probabilities.</summary>
    public const string WithReference = "dpo_ref";

    private delegate void Term(Batch batch, SampledLossSettings settings);

    private sealed record Form(bool Hidden, bool Logp, Term Term);

    private static readonly Dictionary<string, Form> s_forms = new(StringComparer.Ordinal)
    {
        ["reprpo_nll_margin"] = new(true, true, static (b, s) => { Magnitude(b); NllMargin(b, s); }),
        ["reprpo_magnitude"] = new(true, false, static (b, _) => Magnitude(b)),
        ["reprpo_hinge"] = new(true, false, Hinge),
        ["cosine"] = new(true, false, static (b, _) => Cosine(b)),
        ["simpo"] = new(false, true, SimPo),
        ["dpo"] = new(false, true, Dpo),
        [WithReference] = new(false, true, Dpo),
        ["kpo"] = new(true, false, Kpo),
    };

    /// <summary>The losses there are.</summary>
    public static IReadOnlyList<string> Names { get; } = [.. s_forms.Keys];

    /// <summary>Whether a loss reads hidden rows; one that does not has no gradient after which a direction at the tap could be made but through the model.</summary>
    public static bool ReadsHidden(string name) => Find(name).Hidden;

    /// <summary>Whether a loss reads log-probabilities.</summary>
    public static bool ReadsLogp(string name) => Find(name).Logp;

    /// <summary>Value and gradients of a loss.</summary>
    /// <param name="name">One of <see cref="Names"/>.</param>
    /// <param name="hidden">[rows, d], row 2i the positive and row 2i + 1 the negative text of pair i; may be empty where the loss reads none.</param>
    /// <param name="rows">Texts: twice the pairs.</param>
    /// <param name="d">Width.</param>
    /// <param name="logp">[rows], nats a token; may be empty where the loss reads none.</param>
    /// <param name="settings">Constants.</param>
    /// <exception cref="UserErrorException">The name is unknown, the reference missing or out of place, a number not finite.</exception>
    /// <exception cref="ArgumentException">Shapes do not fit.</exception>
    public static SampledLossResult Compute(string name, ReadOnlySpan<double> hidden, int rows, int d, ReadOnlySpan<double> logp, SampledLossSettings settings)
    {
        Form form = Find(name);
        if (rows < 2 || rows % 2 != 0)
            throw new ArgumentException($"{rows} rows do not make pairs; rows come as positive, negative, positive, …");
        if (hidden.Length != rows * d && (form.Hidden || hidden.Length != 0))
            throw new ArgumentException($"hidden has {hidden.Length} numbers, [{rows}, {d}] needs {rows * d}");
        if (form.Hidden && d < 1)
            throw new ArgumentException($"the loss {name} reads hidden rows, and their width is {d}");
        if (logp.Length != rows && (form.Logp || logp.Length != 0))
            throw new ArgumentException($"{logp.Length} log-probabilities for {rows} rows");
        bool referenced = name == "dpo_ref";
        if (referenced && settings.ReferenceLogp is null)
            throw new UserErrorException("the loss dpo_ref compares with a reference model and no reference log-probabilities were given; give them, or take dpo");
        if (!referenced && settings.ReferenceLogp is not null)
            throw new UserErrorException($"reference log-probabilities were given and the loss {name} reads none; take dpo_ref, or leave them out");
        if (referenced && settings.ReferenceLogp!.Count != rows)
            throw new ArgumentException($"{settings.ReferenceLogp.Count} reference log-probabilities for {rows} rows");
        if (settings.LabelSmoothing is not (>= 0 and <= 1))
            throw new UserErrorException($"label smoothing {settings.LabelSmoothing} must be from 0 to 1");
        if (form.Hidden)
            Finite(hidden, d, "hidden state");
        if (form.Logp)
            Finite(logp, 1, "log-probability");
        double[]? reference = referenced ? [.. settings.ReferenceLogp!] : null;
        Finite(reference, 1, "reference log-probability");

        var batch = new Batch(rows, d, form.Hidden ? hidden.ToArray() : [], form.Logp ? logp.ToArray() : [], reference);
        form.Term(batch, settings);
        double loss = 0;
        foreach (double part in batch.Parts.Values)
            loss += part;
        return new SampledLossResult(loss, batch.Parts, batch.HiddenGradient, batch.LogpGradient, batch.ReferenceGradient);
    }

    private static Form Find(string name) => s_forms.TryGetValue(name, out Form? form)
        ? form
        : throw new UserErrorException($"no sampled loss is called '{name}'; there are {string.Join(", ", Names)}");

    private static void Finite(ReadOnlySpan<double> values, int width, string what)
    {
        for (int i = 0; i < values.Length; i++)
            if (!double.IsFinite(values[i]))
                throw new UserErrorException($"the {what} of row {i / width} (pair {i / width / 2}, {(i / width % 2 == 0 ? "positive" : "negative")}) is {values[i]}; look for what in the model or the text makes it so");
    }
}
