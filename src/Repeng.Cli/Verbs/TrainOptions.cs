using System.CommandLine;
using Repeng.Kernels;
using Repeng.Steering.Adapters;
using Repeng.Steering.Data;
using Repeng.Steering.Demo;
using Repeng.Steering.Logging;
using Repeng.Steering.Losses;
using Repeng.Steering.Models;
using Repeng.Steering.Training;

namespace Repeng.Cli.Verbs;

/// <summary>The options of a training, shared by train and plan, and how settings are made from them.</summary>
public sealed class TrainOptions
{
    /// <summary>Where runs are written unless said otherwise.</summary>
    public const string DefaultOutput = "outputs/adapters";

    private static readonly string[] s_scales = ["mult", "add", "add_tanh", "add2", "none"];

    /// <summary>--model.</summary>
    public Option<string?> Model { get; } = Opt.Text("--model", "MODEL", "folder in the Hugging Face layout, .gguf file, repository of the hub (org/name, org/name@revision, org/name:file.gguf), or demo: the built-in model (default)", "--model_name");

    /// <summary>Where it computes.</summary>
    public DeviceOption Device { get; } = new();

    /// <summary>--resume.</summary>
    public Option<string?> Resume { get; } = Opt.Text("--resume", "FOLDER", "go on with a stopped run (its folder ends in .partial); all settings come from there");

    /// <summary>--output_dir.</summary>
    public Option<string?> OutputDir { get; } = Opt.Text("--output_dir", "FOLDER", $"where the run's folder is made (default {DefaultOutput})");

    /// <summary>--run_name.</summary>
    public Option<string?> RunName { get; } = Opt.Text("--run_name", "NAME", "name of the run's folder (default {dataset_name}_contrastive_svft_{time})");

    /// <summary>--log_n.</summary>
    public Option<int?> LogN { get; } = Opt.Int("--log_n", "progress lines over the run when no terminal watches (default 10; another line at least every 5 s)");

    /// <summary>--eval_batch_size.</summary>
    public Option<int?> EvalBatchSize { get; } = Opt.Int("--eval_batch_size", "questions a batch of the evaluation after training (default 64)");

    /// <summary>--eval_dilemmas.</summary>
    public Option<int?> EvalQuestions { get; } = Opt.Int("--eval_dilemmas", "questions of the evaluation after training; 0 for none (default: all of the demo's)", "--eval_questions");

    /// <summary>--dataset_max_size.</summary>
    public Option<int?> EvalTokens { get; } = Opt.Int("--dataset_max_size", "longest prompt of the evaluation in tokens; longer ones are left out (default 128)");

    /// <summary>--think_tag.</summary>
    public Option<string?> ThinkTag { get; } = Thinking.Tag();

    /// <summary>--enable_thinking.</summary>
    public Option<bool?> EnableThinking { get; } = Thinking.Enable();

    private readonly Option<string?> _profile = Opt.Choice("--profile", $"set of settings that the other options change (default {TrainConfig.DefaultProfile}; the demo has its own)", [.. TrainConfig.Profiles]);
    private readonly Option<bool?> _quick = Opt.Flag("--quick", "a short run: 32 rows and few epochs (on the demo: its quick preset)");
    private readonly Option<string[]?> _personas = Opt.Texts("--personas", "A:B", $"pairs positive:negative, or the name of a set: {string.Join(", ", PersonaSets.All.Select(s => s.Name))} (default {PersonaSets.All[0].Name}; on the demo: its own)");
    private readonly Option<string?> _template = Opt.Text("--template", "TEXT", "what the user says, with {persona} in it (default: the persona set's)");
    private readonly Option<string[]?> _suffixes = Opt.Texts("--suffixes", "SET|FILE", $"begun answers: sets ({string.Join(", ", SuffixSets.Names)}) or .json/.txt files (default: the persona set's)");
    private readonly Option<bool?> _thinking = Opt.Flag("--thinking", "for thinking models: suffixes stand inside of an open block of thoughts, and the persona set's suffixes are thoughts");
    private readonly Option<string?> _datasetName = Opt.Text("--dataset_name", "NAME", "first part of the run's folder name (default: the first positive persona)");
    private readonly Option<int?> _maxPairs = Opt.Int("--max_pairs", "pairs at most, drawn by the seed; 0 for all (default: all; on the demo its preset)");
    private readonly Option<int?> _maxTokens = Opt.Int("--max_tokens", "tokens of a training text; the end is kept (default 512)");
    private readonly Option<string?> _targets = Opt.Text("--target_modules", "REGEX", "adapted linear layers: must match the whole dotted path (default: gate_proj and down_proj of nine blocks)");
    private readonly Option<int?> _rank = Opt.Int("--rank", "singular directions that are adapted (default 64), or rank of lora, dora, delora (8) and vera (256)");
    private readonly Option<string?> _scale = Opt.Choice("--scale_s", "how singular values follow c: mult S·exp(cλ), add S(1+c·tanh δ), add2 S+cδ, none", s_scales);
    private readonly Option<bool?> _rotateU = Alias(Opt.Flag("--svft_rotate_u", "rotate left singular vectors"), "--rotate_u");
    private readonly Option<bool?> _rotateV = Alias(Opt.Flag("--svft_rotate_v", "rotate right singular vectors"), "--rotate_v");
    private readonly Option<string?> _rotation = Opt.Choice("--rotation_method", "how a rotation is made from its parameters (default cayley)", "cayley", "matrix_exp", "block_diagonal");
    private readonly Option<int?> _blockSize = Opt.Int("--block_size", "size of the blocks of block_diagonal; divides the rank");
    private readonly Option<double?> _maxAngle = Opt.Number("--max_rotation_angle", "largest angle in radians that one parameter stands for at c = 1; 0 for no cap");
    private readonly Option<bool?> _fullLossU = Opt.Flag("--full_loss_u", "the loss reads all left singular vectors but the last; else the adapter's own");
    private readonly Option<bool?> _logSigmoid = Opt.Flag("--use_logsigmoid", "separation term −ln σ(c·(s − s_ref)); --no-… takes −c·tanh(s/|s_ref|)");
    private readonly Option<string?> _separation = Opt.Choice("--separation", "separation term by name: logsigmoid, linear −c·s, tanh, or shift: both texts of a pair move along ±c", "logsigmoid", "linear", "tanh", "shift");
    private readonly Option<double?> _beta = Opt.Number("--beta", "steepness of logsigmoid and shift (default 1)");
    private readonly Option<bool?> _relative = Opt.Flag("--relative_to_gap", "measure separations in units of the personas' own distance");
    private readonly Option<string?> _coherence = Opt.Choice("--coherence", "term that holds on to the model's own log-probabilities", "none", "absolute", "hinge");
    private readonly Option<double?> _lambda = Opt.Number("--lambda_coh", "weight of the coherence term");
    private readonly Option<double?> _threshold = Opt.Number("--coherence_threshold", "nats that are free in the hinge");
    private readonly Option<int?> _order = Opt.Int("--boundary_order", "exponent of the hinge");
    private readonly Option<int?> _lastTokens = Opt.Int("--last_n_tokens", "tokens at the end of a text that the loss reads (default 6)");
    private readonly Option<int?> _tokenPosition = Opt.Int("--token_position", "token that the steering direction is read at: -1 the last, -2 the one before it");
    private readonly AntiPastoOptions _antiPasto = new();
    private readonly PeftOptions _peft = new();
    private readonly Option<int?> _batchSize = Opt.Int("--batch_size", "rows a batch, two a pair: even (default 14)");
    private readonly Option<int?> _epochs = Opt.Int("--n_epochs", "passes over the pairs (default 30)");
    private readonly Option<double?> _rate = Opt.Number("--lr", "largest learning rate of the one-cycle schedule (default 1e-3)");
    private readonly Option<double?> _decay = Opt.Number("--weight_decay", "decoupled weight decay (default 0.01)");
    private readonly Option<int?> _accumulate = Opt.Int("--grad_accum_steps", "batches an optimiser step (readme and upstream 6, recommended 1)");
    private readonly Option<double?> _clip = Opt.Number("--clip_norm", "largest norm of a step's gradient; 0 for no clipping");
    private readonly Option<double?> _valSplit = Opt.Number("--val_split", "part of the pairs kept for validation");
    private readonly Option<int?> _patience = Opt.Int("--patience", "validations without improvement after which training ends; 0 for never (default 0)");
    private readonly Option<bool?> _calibrate = Opt.Flag("--calibrate_sign", "turn the adapter so that +c goes toward the positive persona");
    private readonly Option<ulong?> _seed = Opt.Seed("--seed", "key of every random draw (default 42; on the demo 43)");
    private readonly Option<bool?> _saveCheckpoints = Opt.Flag("--save_checkpoints", "write checkpoints while training (default: yes)");
    private readonly Option<int?> _checkpointEvery = Opt.Int("--checkpoint_every", "optimiser steps between checkpoints (default 25)");
    private readonly Option<int?> _microBatch = Opt.Int("--micro_batch_size", "rows of a batch that run together: less memory, the same gradients (default: all)");
    private readonly Option<bool?> _checkpointActivations = Opt.Flag("--checkpoint_activations", "run blocks again in the backward pass: less memory, more time");
    private readonly WeightOptions _weights = new();
    private readonly Option<bool?> _wandb = Opt.Flag("--use_wandb", "write an offline run of Weights & Biases, for wandb sync (default: no)");
    private readonly Option<string?> _wandbProject = Opt.Text("--wandb_project", "NAME", $"project of --use_wandb (default {RunLogSettings.DefaultProject})");
    private readonly Option<string?> _wandbDir = Opt.Text("--wandb_dir", "DIR", $"where --use_wandb makes the folder offline-run-{{time}}-{{id}} (default {RunLogSettings.DefaultWandbFolder})");
    private readonly Option<string?> _logDir = Opt.Text("--logdir", "DIR", "write TensorBoard's events into DIR/{name of the run} (default: none)");

    /// <summary>What says on which texts: model, personas, template, suffixes, how many, seed, and where it runs.</summary>
    public IReadOnlyList<Option> Texts => [Model, _personas, _template, _suffixes, _thinking, ThinkTag, EnableThinking, _maxPairs, _maxTokens, _seed, .. Device.All, .. _weights.All];

    /// <summary>What says what a pair of texts is made of.</summary>
    public IReadOnlyList<Option> Pairs => [_personas, _template, _suffixes, _thinking];

    /// <summary>All options, in the order of the help.</summary>
    public IReadOnlyList<Option> All =>
    [
        Model, _quick, _profile, _personas, _template, _suffixes, _thinking, ThinkTag, EnableThinking, _datasetName, _maxPairs, _maxTokens,
        _targets, _rank, _scale, _rotateU, _rotateV, _rotation, _blockSize, _maxAngle,
        _fullLossU, _logSigmoid, _separation, _beta, _relative, _coherence, _lambda, _threshold, _order, _lastTokens, _tokenPosition,
        .. _peft.All,
        .. _antiPasto.All,
        _batchSize, _epochs, _rate, _decay, _accumulate, _clip, _valSplit, _patience, _calibrate, _seed,
        OutputDir, RunName, Resume, _saveCheckpoints, _checkpointEvery, _microBatch, _checkpointActivations,
        LogN, EvalQuestions, EvalBatchSize, EvalTokens, .. Device.All, .. _weights.All, _wandb, _wandbProject, _wandbDir, _logDir,
    ];

    /// <summary>Stops for what the program cannot do yet, before anything is read.</summary>
    public void RefuseMissing(ParseResult p)
    {
        RefuseIdleTag(p);
        if (p.GetValue(_profile) == "antipasto" && LossOption(p) is { } option)
            throw new UserErrorException($"{option.Name} belongs to the reference state's loss; --profile antipasto has its own. Leave one of them out");
    }

    /// <summary>Stops where tags are named that no text is made with.</summary>
    public void RefuseIdleTag(ParseResult p)
    {
        if (p.GetValue(ThinkTag) is not null && p.GetValue(_thinking) != true)
            throw new UserErrorException("--think_tag without --thinking: no suffix stands inside of thoughts; add --thinking, or leave --think_tag out");
    }

    /// <summary>With --resume, every setting comes from the folder; another one beside it would be lost silently.</summary>
    public void RefuseBesideResume(ParseResult p)
    {
        Option[] allowed = [Resume, Model, .. Device.All, LogN, EvalQuestions, EvalBatchSize, EvalTokens];
        Option? other = All.Except(allowed).FirstOrDefault(o => p.GetResult(o) is { Implicit: false });
        if (other is not null)
            throw new UserErrorException($"{other.Name} beside --resume: a resumed run keeps all of its settings, which are in its {TrainRun.SettingsName}; leave {other.Name} out");
    }

    /// <summary>The settings of a new run. Texts and files are read here.</summary>
    public RunSettings Settings(ParseResult p, string model, ModelConfig config)
    {
        bool demo = model == ModelBundle.Demo, quick = p.GetValue(_quick) == true;
        TrainPreset preset = TrainDefaults.For(config, demo, quick);
        (List<PersonaPair> personas, PersonaSet? set) = Personas(p, demo);
        string template = p.GetValue(_template) ?? set?.Template ?? (demo ? DemoSteering.Templates[0] : PersonaSets.All[0].Template);
        string[]? named = p.Given(_suffixes);
        ThinkingTexts? thinking = ReadThinking(p);
        string[] sets = named ?? (set is null && demo ? [SuffixSets.DemoName] : [.. thinking is { Inside: true } ? (set ?? PersonaSets.All[0]).ThinkingSuffixSets : (set ?? PersonaSets.All[0]).SuffixSets]);
        int maxPairs = p.GetValue(_maxPairs) ?? preset.MaxPairs, maxTokens = p.GetValue(_maxTokens) ?? 512;
        if (maxPairs < 0)
            throw new UserErrorException($"--max_pairs {maxPairs} must be 0 (all) or more");
        if (maxTokens < 3)
            throw new UserErrorException($"--max_tokens {maxTokens} must be at least 3");
        TrainConfig train = Train(p, preset, quick);
        train.Validate();
        WeightStorage storage = _weights.Read(p);
        return new RunSettings
        {
            Model = model,
            Weights = storage.Type,
            Quantise = storage.Quantise,
            DatasetName = Name(p.GetValue(_datasetName), "--dataset_name") ?? Plain(personas[0].Positive),
            Template = template,
            Personas = personas,
            Suffixes = [.. sets.SelectMany(Suffixes)],
            Thinking = thinking,
            MaxPairs = maxPairs,
            MaxTokens = maxTokens,
            EvalQuestions = NotNegative(p.GetValue(EvalQuestions), "--eval_dilemmas"),
            EvalMaxTokens = p.GetValue(EvalTokens),
            Train = train,
        };
    }

    /// <summary>Logs that are asked for beyond the run's own files; null for none.</summary>
    public RunLogs? Logs(ParseResult p)
    {
        bool wandb = p.GetValue(_wandb) == true;
        string? project = p.GetValue(_wandbProject), folder = p.GetValue(_wandbDir), board = p.GetValue(_logDir);
        if (!wandb && (project is not null ? _wandbProject : folder is not null ? _wandbDir : null) is { } idle)
            throw new UserErrorException($"{idle.Name} without --use_wandb: nothing would be logged there; add --use_wandb, or leave {idle.Name} out");
        foreach ((Option option, string? value) in new (Option, string?)[] { (_wandbProject, project), (_wandbDir, folder), (_logDir, board) })
            if (value is { Length: 0 })
                throw new UserErrorException($"{option.Name} is empty; give a name, or leave it out");
        return !wandb && board is null ? null : new RunLogs(new RunLogSettings
        {
            WandbFolder = wandb ? folder ?? RunLogSettings.DefaultWandbFolder : null,
            WandbProject = project ?? RunLogSettings.DefaultProject,
            TensorBoardFolder = board,
        });
    }

    /// <summary>Where the run's folder will be.</summary>
    public string Folder(ParseResult p, RunSettings settings, DateTime now)
    {
        string name = Name(p.GetValue(RunName), "--run_name") ?? $"{settings.DatasetName}_contrastive_{_peft.Kind(p) ?? "svft"}_{now:yyyyMMdd_HHmmss}";
        return Path.Combine(p.GetValue(OutputDir) ?? DefaultOutput, name);
    }

    private ThinkingTexts? ReadThinking(ParseResult p)
    {
        bool inside = p.GetValue(_thinking) == true;
        (string? tag, bool? enable) = (Thinking.ReadTag(p, ThinkTag), p.GetValue(EnableThinking));
        if (inside && enable == false)
            throw new UserErrorException("--thinking beside --no-enable_thinking: suffixes cannot stand inside of thoughts that are switched off; leave one out");
        return inside || enable is not null ? new ThinkingTexts(inside, tag, enable) : null;
    }

    private Option? LossOption(ParseResult p) =>
        new Option[] { _logSigmoid, _separation, _beta, _relative, _fullLossU, _tokenPosition, _coherence, _lambda, _threshold, _order }.FirstOrDefault(o => p.GetResult(o) is { Implicit: false });

    // Said beats preset beats profile; a profile that was asked for by name beats the preset's rank and rate.
    private TrainConfig Train(ParseResult p, TrainPreset preset, bool quick)
    {
        string? asked = p.GetValue(_profile);
        // An option of the reference state's loss asks for that loss.
        bool mine = asked is null && (preset.Profile != "antipasto" || LossOption(p) is null);
        TrainConfig c = TrainConfig.FromProfile(asked ?? (mine ? preset.Profile : TrainConfig.DefaultProfile));
        ulong seed = p.GetValue(_seed) ?? (mine ? preset.Seed : null) ?? c.Seed;
        SvdAdapterConfig a = c.Adapter;
        ContrastiveLossConfig l = c.Loss;
        if (c.AntiPasto is not null && LossOption(p) is { } idle)
            throw new UserErrorException($"{idle.Name} beside --profile antipasto: that profile has its own loss, which does not read it; leave it out or take another profile");
        string rotation = p.GetValue(_rotation) ?? Names.Rotation(a.Rotation);
        double? angle = p.GetValue(_maxAngle) ?? a.MaxRotationAngle;
        c = _antiPasto.Apply(p, c, mine ? preset : null);
        string targets = p.GetValue(_targets) ?? preset.TargetModules;
        return c with
        {
            Peft = _peft.Settings(p, targets, _rank, seed, c.AntiPasto is not null, [_scale, _rotateU, _rotateV, _rotation, _blockSize, _maxAngle]),
            Adapter = a with
            {
                TargetModules = targets,
                Rank = p.GetValue(_rank) ?? (mine ? preset.Rank : null) ?? a.Rank,
                Scale = p.GetValue(_scale) is { } scale ? Names.ParseScale(scale) : a.Scale,
                RotateU = p.GetValue(_rotateU) ?? a.RotateU,
                RotateV = p.GetValue(_rotateV) ?? a.RotateV,
                Rotation = Names.ParseRotation(rotation),
                BlockSize = p.GetValue(_blockSize) ?? a.BlockSize,
                MaxRotationAngle = angle == 0 ? null : angle,
                Seed = seed,
            },
            Loss = l with
            {
                Separation = Separation(p) ?? l.Separation,
                Beta = (float)(p.GetValue(_beta) ?? l.Beta),
                RelativeToGap = p.GetValue(_relative) ?? l.RelativeToGap,
                Coherence = p.GetValue(_coherence) switch { "none" => CoherenceLoss.None, "absolute" => CoherenceLoss.Absolute, "hinge" => CoherenceLoss.Hinge, _ => l.Coherence },
                CoherenceWeight = (float)(p.GetValue(_lambda) ?? l.CoherenceWeight),
                CoherenceThreshold = (float)(p.GetValue(_threshold) ?? l.CoherenceThreshold),
                BoundaryOrder = p.GetValue(_order) ?? l.BoundaryOrder,
                LastTokens = p.GetValue(_lastTokens) ?? l.LastTokens,
            },
            AntiPasto = c.AntiPasto is { } anti ? anti with { LastTokens = p.GetValue(_lastTokens) ?? anti.LastTokens } : null,
            BatchSize = p.GetValue(_batchSize) ?? (mine ? preset.BatchSize : null) ?? c.BatchSize,
            Epochs = p.GetValue(_epochs) ?? (mine || quick ? preset.Epochs : null) ?? c.Epochs,
            LearningRate = p.GetValue(_rate) ?? (mine ? preset.LearningRate : null) ?? c.LearningRate,
            WeightDecay = p.GetValue(_decay) ?? c.WeightDecay,
            GradAccumSteps = p.GetValue(_accumulate) ?? (mine ? preset.GradAccumSteps : null) ?? c.GradAccumSteps,
            ClipNorm = NotNegative(p.GetValue(_clip), "--clip_norm") ?? c.ClipNorm,
            ValidationSplit = p.GetValue(_valSplit) ?? c.ValidationSplit,
            Patience = NotNegative(p.GetValue(_patience), "--patience") ?? c.Patience,
            FullLossU = p.GetValue(_fullLossU) ?? c.FullLossU,
            TokenFromEnd = p.GetValue(_tokenPosition) is { } position ? position < 0 ? -position : throw new UserErrorException($"--token_position {position} counts from the end and must be -1 or below") : c.TokenFromEnd,
            CalibrateSign = p.GetValue(_calibrate) ?? c.CalibrateSign,
            MicroBatchSize = p.GetValue(_microBatch) ?? c.MicroBatchSize,
            CheckpointActivations = p.GetValue(_checkpointActivations) ?? c.CheckpointActivations,
            CheckpointEvery = p.GetValue(_saveCheckpoints) == false ? 0 : NotNegative(p.GetValue(_checkpointEvery), "--checkpoint_every") ?? c.CheckpointEvery,
            Seed = seed,
        };
    }

    private SeparationLoss? Separation(ParseResult p)
    {
        bool? sigmoid = p.GetValue(_logSigmoid);
        if (p.GetValue(_separation) is not { } word)
            return sigmoid is null ? null : sigmoid.Value ? SeparationLoss.LogSigmoid : SeparationLoss.TanhRatio;
        if (sigmoid is not null)
            throw new UserErrorException("--separation beside --use_logsigmoid: both name the separation term; leave one out");
        return word switch { "linear" => SeparationLoss.Linear, "tanh" => SeparationLoss.TanhRatio, "shift" => SeparationLoss.Shift, _ => SeparationLoss.LogSigmoid };
    }

    private (List<PersonaPair>, PersonaSet?) Personas(ParseResult p, bool demo)
    {
        string[]? given = p.Given(_personas);
        if (given is null)
        {
            if (demo)
                return ([.. DemoSteering.PersonaPairs.Select(x => new PersonaPair(x.Positive, x.Negative))], null);
            return (PairsOf(PersonaSets.All[0]), PersonaSets.All[0]);
        }
        if (given is [var name] && !name.Contains(':', StringComparison.Ordinal))
        {
            PersonaSet set = PersonaSets.Load(name);
            return (PairsOf(set), set);
        }
        var pairs = new List<PersonaPair>();
        foreach (string word in given)
        {
            string[] two = word.Split(':', StringSplitOptions.TrimEntries);
            if (two.Length != 2 || two[0].Length == 0 || two[1].Length == 0 || two[0] == two[1])
                throw new UserErrorException($"--personas '{word}': two different words with a colon between are needed, such as honest:dishonest");
            pairs.Add(new PersonaPair(two[0], two[1]));
        }
        return pairs.Count > 0 ? (pairs, null) : throw new UserErrorException("--personas: no pair is given; for example honest:dishonest");

        static List<PersonaPair> PairsOf(PersonaSet set) => [.. set.Positive.Zip(set.Negative, (a, b) => new PersonaPair(a, b))];
    }

    private static IReadOnlyList<string> Suffixes(string word) =>
        SuffixSets.Names.Contains(word) ? SuffixSets.Load(word)
        : word.Contains('.', StringComparison.Ordinal) || word.Contains('/', StringComparison.Ordinal) || File.Exists(word) ? SuffixSets.LoadFile(word)
        : SuffixSets.Load(word);

    private static int? NotNegative(int? value, string name) => value is < 0 ? throw new UserErrorException($"{name} {value} must not be negative") : value;

    private static double? NotNegative(double? value, string name) => value is < 0 ? throw new UserErrorException($"{name} {value} must not be negative") : value;

    // A name becomes part of a folder's name.
    private static string? Name(string? value, string option) =>
        value is null || value.Length > 0 && value is not "." and not ".." && value.IndexOfAny(Path.GetInvalidFileNameChars()) < 0
            ? value
            : throw new UserErrorException($"{option} '{value}' cannot be the name of a folder; take letters, digits, - and _");

    private static string Plain(string word) => string.Concat(word.Select(ch => char.IsLetterOrDigit(ch) ? ch : '_'));

    private static Option<bool?> Alias(Option<bool?> option, string alias)
    {
        option.Aliases.Add(alias);
        return option;
    }
}
