using System.Globalization;
using Repeng.Kernels;
using Repeng.Kernels.Cpu;

namespace Repeng.Steering.Vectors;

/// <summary>What a method needs of the texts.</summary>
[Flags]
public enum VectorNeeds
{
    /// <summary>Only the mean difference of outputs, which is summed as the texts go by.</summary>
    MeanDifference = 0,

    /// <summary>Rows of outputs at the token.</summary>
    Hidden = 1,

    /// <summary>Log-probabilities of the texts.</summary>
    LogProb = 2,

    /// <summary>Rows of gradients of a sampled loss.</summary>
    Gradients = 4,
}

/// <summary>A method by its name: what it needs, and the directions [k, d] that it makes of a layer's rows.</summary>
/// <param name="Name">The name asked for.</param>
/// <param name="Needs">What must be collected.</param>
/// <param name="Directions">From rows, the number of components and the pool.</param>
public sealed record VectorMethod(string Name, VectorNeeds Needs, Func<CpuWorkers, LayerRows, int, double[]> Directions)
{
    /// <summary>Whether the direction is linear in the mean gradient of all rows: where gradients cancel it is rounding.</summary>
    public bool FollowsMeanGradient { get; init; }

    /// <summary>Rows that components are taken of, for each pair; 0 where the method has one component.</summary>
    public int RowsOfPair { get; init; }

    /// <summary>Throws <see cref="UserErrorException"/> when so many components cannot come from so many pairs at a layer of this width.</summary>
    public void CheckComponents(int components, int pairs, int width)
    {
        int rows = RowsOfPair * pairs, most = RowsOfPair == 0 ? 1 : Math.Min(rows, width);
        if (components == 1 && most >= 1)
            return;
        if (RowsOfPair == 0)
            throw new UserErrorException($"method {Name} has one component, not {components}; several come from pca_diff and pca_center");
        if (components < 1 || components > most)
            throw new UserErrorException($"{components} components asked of {rows} rows of width {width}: it must be 1 … {most}; give more pairs or ask for fewer");
    }

    /// <summary>What can be asked for; brackets are optional parts.</summary>
    public static IReadOnlyList<string> Known { get; } =
    [
        "mean_diff", "pca_diff", "pca_diff_weighted", "pca_center", "pca_center_weighted", "umap",
        "svd_gradient", "fisher_steer[_emp|_cov][_reg0…_reg5]", "fisher_steer[_emp|_cov]_dual[_pos|_neg|_diff]",
        "kfac_steer[_pca|_gradient_pca][_pos|_neg][_rankK][_reg1…_reg3]", "svd_weight[_rankK]",
    ];

    private static readonly double[] s_lambdas = [0, 1e-1, 1e-2, 1e-3, 1e-4, 1e-5];

    /// <summary>
    /// The method of a name. Every part of the name must be understood: upstream looks for parts anywhere and lets
    /// unknown names run as pca_diff. svd_steer, which upstream's tables list, is that: an alias of pca_diff.
    /// </summary>
    public static VectorMethod Parse(string name)
    {
        switch (name)
        {
            case "mean_diff":
                return Single(name, VectorNeeds.MeanDifference, (_, r) => r.MeanDifference);
            case "pca_diff" or "svd_steer":
                return new VectorMethod(name, VectorNeeds.Hidden, (w, r, k) => PcaDirections.Differences(w, r, k)) { RowsOfPair = 1 };
            case "pca_diff_weighted":
                return new VectorMethod(name, VectorNeeds.Hidden | VectorNeeds.LogProb, (w, r, k) => PcaDirections.Differences(w, r, k, weighted: true)) { RowsOfPair = 1 };
            case "pca_center":
                return new VectorMethod(name, VectorNeeds.Hidden, (w, r, k) => PcaDirections.Centred(w, r, k)) { RowsOfPair = 2 };
            case "pca_center_weighted":
                return new VectorMethod(name, VectorNeeds.Hidden | VectorNeeds.LogProb, (w, r, k) => PcaDirections.Centred(w, r, k, weighted: true)) { RowsOfPair = 2 };
            case "umap":
                return Single(name, VectorNeeds.Hidden, (w, r) => UmapDirection.Direction(w, r));
            case "svd_gradient":
                return Single(name, VectorNeeds.Gradients, SvdGradient);
        }
        if (WeightSvdSteering.RankOf(name) is not null)
            throw new UserErrorException($"method {name} gives no directions but a change of weights, which {nameof(WeightSvdSteering)}.{nameof(WeightSvdSteering.Train)} makes");
        string[] parts = name.Split('_');
        if (parts is ["fisher", "steer", ..])
            return Fisher(name, parts[2..]);
        return parts is ["kfac", "steer", ..] ? Kfac(name, parts[2..]) : throw Unknown(name, null);
    }

    private static VectorMethod Single(string name, VectorNeeds needs, Func<CpuWorkers, LayerRows, double[]> f) => new(name, needs, (w, r, _) => f(w, r));

    /// <summary>First right singular vector of the centred gradients, signed by them (6964a4e of the research branch; the sign of b21e7ee).</summary>
    private static double[] SvdGradient(CpuWorkers workers, LayerRows rows)
    {
        RowSource g = rows.NeedGradients("svd_gradient");
        return g.SquareSum() == 0 ? new double[rows.Width] : FisherSteering.OrientByGradients(rows, PcaDirections.Leading(workers, g, 1));
    }

    private static VectorMethod Fisher(string name, string[] parts)
    {
        var settings = new FisherSettings();
        bool dual = false;
        foreach (string part in parts)
        {
            settings = part switch
            {
                "emp" when !dual => settings with { Matrix = FisherMatrix.Empirical },
                "cov" when !dual => settings with { Matrix = FisherMatrix.Covariance },
                "dual" when !dual => settings with { Sides = FisherSides.Mean },
                "pos" when dual => settings with { Sides = FisherSides.Positive },
                "neg" when dual => settings with { Sides = FisherSides.Negative },
                "diff" when dual => settings with { Sides = FisherSides.Difference },
                // Who asks for no regularisation gets none: with few rows upstream's guard would raise λ unasked.
                "reg0" => settings with { Lambda = 0, GuardFewRows = false },
                ['r', 'e', 'g', >= '1' and <= '5'] => settings with { Lambda = s_lambdas[part[3] - '0'] },
                _ => throw Unknown(name, part),
            };
            dual |= part == "dual";
        }
        // Upstream forgets the λ of a _dual name and takes the adaptive one; a name that says both is refused rather than half obeyed.
        if (dual && Array.Exists(parts, p => p.StartsWith("reg", StringComparison.Ordinal)))
            throw new UserErrorException($"method {name}: _dual chooses lambda by the trace of each side's matrix and takes no _reg");
        return Single(name, VectorNeeds.Gradients, (w, r) => FisherSteering.Direction(w, r, settings)) with { FollowsMeanGradient = settings.Sides is FisherSides.Together or FisherSides.Mean };
    }

    private static VectorMethod Kfac(string name, string[] parts)
    {
        var settings = new KfacSettings(KfacMode.NaturalGradient);
        bool gradient = false;
        foreach (string part in parts)
        {
            if (part == "gradient")
            {
                gradient = true;
                continue;
            }
            settings = part switch
            {
                "pca" => settings with { Mode = gradient ? KfacMode.GradientPca : KfacMode.Pca },
                "pos" => settings with { Sides = FisherSides.Positive },
                "neg" => settings with { Sides = FisherSides.Negative },
                ['r', 'e', 'g', >= '1' and <= '3'] => settings with { Lambda = s_lambdas[part[3] - '0'] },
                _ when part.StartsWith("rank", StringComparison.Ordinal) && int.TryParse(part[4..], NumberStyles.None, CultureInfo.InvariantCulture, out int rank) && rank > 0 => settings with { Rank = rank },
                _ => throw Unknown(name, part),
            };
        }
        if (gradient != (settings.Mode == KfacMode.GradientPca))
            throw Unknown(name, "gradient");
        return Single(name, VectorNeeds.Hidden | VectorNeeds.Gradients, (w, r) => KfacSteering.Direction(w, r, settings));
    }

    private static UserErrorException Unknown(string name, string? part) =>
        new($"method {name} is not known{(part is null ? "" : $" (its part '{part}')")}; there are: {string.Join(", ", Known)}");
}
