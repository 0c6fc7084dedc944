using Repeng.Kernels;
using Repeng.Steering.Vectors;

namespace Repeng.Cli.Results;

/// <summary>How a method of the results is made.</summary>
internal enum ResultsKind
{
    /// <summary>The model alone.</summary>
    Unsteered,

    /// <summary>Personas named in the prompt.</summary>
    Prompts,

    /// <summary>A random direction of the mean difference's length in each layer.</summary>
    Random,

    /// <summary>A control vector.</summary>
    Vector,

    /// <summary>An edit of weights along their singular directions.</summary>
    WeightSvd,

    /// <summary>A trained adapter.</summary>
    Adapter,
}

/// <summary>A method of the results page: a name and the options of the verb that makes it.</summary>
/// <param name="Name">Its name, also for --methods.</param>
/// <param name="Kind">How it is made.</param>
/// <param name="Page">Page of docs/methods that explains it; null for none.</param>
/// <param name="Options">Options of `vector train` or `train` beyond those of the task.</param>
internal sealed record ResultsMethod(string Name, ResultsKind Kind, string? Page, params IReadOnlyList<string> Options)
{
    /// <summary>Options that take the place of <see cref="Options"/> on real models, where others suit.</summary>
    public IReadOnlyList<string>? OnRealModels { get; init; }

    /// <summary>The name without what makes it a special case, for links.</summary>
    public string Link => Page is null ? Name : $"[{Name}](methods/{Page}.md)";

    /// <summary>All methods in the order of the page.</summary>
    public static IReadOnlyList<ResultsMethod> All { get; } =
    [
        new("no steering", ResultsKind.Unsteered, null),
        new("prompts", ResultsKind.Prompts, null),
        new("random", ResultsKind.Random, null),
        .. new[] { "mean_diff", "pca_diff", "pca_diff_weighted", "pca_center", "pca_center_weighted" }.Select(m => Vector(m, "mean-difference-and-pca")),
        Vector("umap", "umap"),
        Vector("svd_gradient", "svd-of-gradients"),
        .. new[] { "cosine", "simpo", "reprpo_magnitude", "reprpo_hinge", "dpo", "dpo_ref", "kpo" }.Select(l => Sampled(l)),
        .. new[] { "fisher_steer", "fisher_steer_emp", "fisher_steer_cov_reg1", "fisher_steer_dual", "fisher_steer_dual_diff" }.Select(m => Vector(m, "fisher")),
        .. new[] { "kfac_steer", "kfac_steer_pca", "kfac_steer_gradient_pca" }.Select(m => Vector(m, "kfac")),
        new($"{WeightSvdSteering.Name}_rank32", ResultsKind.WeightSvd, "weight-svd"),
        Rotation("antipasto"), Rotation("readme"), Rotation("upstream"), Rotation("recommended"),
        Peft("lora", "lora-family") with { OnRealModels = ["--adapter_type", "lora", "--lr", "3e-2"] },
        Peft("rslora", "lora-family") with { OnRealModels = ["--adapter_type", "rslora", "--lr", "1e-2"] },
        Peft("dora", "lora-family") with { OnRealModels = ["--adapter_type", "dora", "--lr", "3e-2"] },
        Peft("ia3", "small-adapters", "--lr", "3e-2") with { OnRealModels = ["--adapter_type", "ia3", "--lr", "1e-1"] },
        Peft("vera", "small-adapters", "--lr", "0.3"),
        Peft("delora", "small-adapters") with { OnRealModels = ["--adapter_type", "delora", "--lr", "1e-2"] },
        Peft("road_2", "small-adapters", "--group_size", "8") with { OnRealModels = ["--adapter_type", "road_2", "--lr", "1e-1"] },
    ];

    /// <summary>The methods of those names; everything for none.</summary>
    public static IReadOnlyList<ResultsMethod> Named(IReadOnlyList<string>? names)
    {
        if (names is null)
            return All;
        foreach (string name in names)
            if (!All.Any(m => m.Name == name))
                throw new UserErrorException($"--methods: '{name}' is none of the results' methods; there are: {string.Join(", ", All.Select(m => m.Name))}");
        return [.. All.Where(m => names.Contains(m.Name))];
    }

    /// <summary>The options on a model.</summary>
    public IReadOnlyList<string> For(bool demo) => demo ? Options : OnRealModels ?? Options;

    private static ResultsMethod Vector(string method, string page) => new(method, ResultsKind.Vector, page, "--method", method);

    private static ResultsMethod Sampled(string loss) => new($"svd_gradient:{loss}", ResultsKind.Vector, "sampled-losses", "--method", "svd_gradient", "--loss", loss);

    // The demo's preset has antipasto's loss and a rate and rank that suit the demo; the others get the same steps.
    private static ResultsMethod Rotation(string profile) => new($"rotation:{profile}", ResultsKind.Adapter, profile == "antipasto" ? "antipasto-loss" : "rotation-adapter",
        profile == "antipasto" ? [] : ["--profile", profile, "--lr", "7e-3", "--batch_size", "24", "--grad_accum_steps", "1", "--rank", "64"])
    { OnRealModels = ["--profile", profile, "--rank", "64", "--lr", "1e-2"] };

    private static ResultsMethod Peft(string kind, string page, params string[] more) => new(kind, ResultsKind.Adapter, page, ["--adapter_type", kind, .. more]);
}
