using System.CommandLine;
using Repeng.Kernels.Cuda.Interop;

namespace Repeng.Cli.Tests;

public sealed class ParsingTests
{
    public static TheoryData<string> ReadmeLines { get; } =
    [
        "train --help",
        "train --quick",
        "train --batch_size 14 --n_epochs 30 --use_wandb",
        @"train --rank 64 --lr 1e-3 --target_modules .*\.(10|20|30)\..*(gate_proj|down_proj)",
    ];

    [Theory]
    [MemberData(nameof(ReadmeLines))]
    public void Lines_of_the_original_README_parse(string line)
    {
        (RootCommand root, ParseResult parsed, string[] args) = Parse(line.Split(' '));
        Assert.Null(CliApp.Complaint(root, parsed, args));
        Assert.Equal("train", parsed.CommandResult.Command.Name);
    }

    [Fact]
    public void Values_of_the_README_line_arrive()
    {
        (_, ParseResult parsed, _) = Parse(["train", "--rank", "64", "--lr", "1e-3", "--target_modules", @".*\.(10|20|30)\..*(gate_proj|down_proj)"]);
        Assert.Equal(64, parsed.GetValue<int?>("--rank"));
        Assert.Equal(1e-3, parsed.GetValue<double?>("--lr"));
        Assert.Equal(@".*\.(10|20|30)\..*(gate_proj|down_proj)", parsed.GetValue<string?>("--target_modules"));
    }

    [Theory]
    [InlineData("--batch_size 6")]
    [InlineData("--batch-size 6")]
    [InlineData("--batch_size=6")]
    [InlineData("--batch-size=6")]
    public void Both_spellings_mean_the_same(string text)
    {
        (_, ParseResult parsed, _) = Parse(["train", .. text.Split(' ')]);
        Assert.Empty(parsed.Errors);
        Assert.Equal(6, parsed.GetValue<int?>("--batch_size"));
    }

    [Theory]
    [InlineData("--svft_rotate_u", true)]
    [InlineData("--svft-rotate-u", true)]
    [InlineData("--rotate_u", true)]
    [InlineData("--no-svft_rotate_u", false)]
    [InlineData("--no-svft-rotate-u", false)]
    [InlineData("--no_rotate_u", false)]
    [InlineData("--svft_rotate_u true", true)]
    [InlineData("--svft_rotate_u false", false)]
    [InlineData("--rotate-u=False", false)]
    public void Booleans_have_all_their_forms(string text, bool expected)
    {
        (_, ParseResult parsed, _) = Parse(["train", .. text.Split(' '), "--quick"]);
        Assert.Empty(parsed.Errors);
        Assert.Equal(expected, parsed.GetValue<bool?>("--svft_rotate_u"));
        Assert.True(parsed.GetValue<bool?>("--quick"));
    }

    [Fact]
    public void What_is_not_given_is_null()
    {
        (_, ParseResult parsed, _) = Parse(["train"]);
        Assert.Null(parsed.GetValue<bool?>("--quick"));
        Assert.Null(parsed.GetValue<int?>("--rank"));
    }

    [Theory]
    [InlineData("--coefficient -2 0 2.5")]
    [InlineData("--coefficient -2 --coefficient 0 --coefficient=2.5")]
    [InlineData("--coefficient=-2,0 --coefficient 2.5")]
    public void Coefficients_repeat(string text)
    {
        (_, ParseResult parsed, _) = Parse(["generate", .. text.Split(' '), "--prompt", "--this text begins with dashes: yes"]);
        Assert.Empty(parsed.Errors);
        Assert.Equal([-2, 0, 2.5], parsed.GetValue<double[]?>("--coefficient")!);
        Assert.Equal("--this text begins with dashes: yes", parsed.GetValue<string?>("--prompt"));
    }

    [Theory]
    [InlineData("train --bath_size 3", "--bath_size", "--batch_size")]
    [InlineData("train --no-quik", "--no-quik", "--no_quick")]
    [InlineData("generate --coeficient 1", "--coeficient", "--coefficient")]
    [InlineData("trian --quick", "trian", "train")]
    [InlineData("train --n_epoch 3", "--n_epoch", "--n_epochs?")]
    [InlineData("train --n-epoch=3 --quick", "--n-epoch=3", "--n_epochs?")]
    [InlineData("train --personas honest:dishonest --n_epoch 3", "--n_epoch", "--n_epochs?")]
    [InlineData("train --lr --n_epoch 3", "--n_epoch", "--n_epochs?")]
    [InlineData("train --bogus_option", "--bogus_option", "the nearest is --")]
    [InlineData("vector train --outputt x", "--outputt", "--output? (repeng-native vector train --help")]
    [InlineData("vector train -p x", "unknown option -p", "did you mean -o?")]
    public void Unknown_words_name_the_nearest(string line, string wrong, string near)
    {
        CliResult result = CliRun.Run(line.Split(' '));
        Assert.Equal(ExitCodes.Usage, result.Code);
        string error = Assert.Single(result.ErrorLines);
        Assert.StartsWith("error:", error);
        Assert.Contains(wrong, error);
        Assert.Contains(near, error);
    }

    [Theory]
    [InlineData("train --bogus_option --help")]
    [InlineData("train --lr --n_epoch -h")]
    [InlineData("vector train --help")]
    public void Help_is_given_whatever_else_the_line_says(string line)
    {
        CliResult result = CliRun.Run(line.Split(' '));
        Assert.Equal(ExitCodes.Ok, result.Code);
        Assert.Empty(result.Error);
        Assert.Contains("--model", result.Out);
    }

    [Fact]
    public void A_text_may_look_like_an_option_that_is_far_from_all()
    {
        (_, ParseResult parsed, _) = Parse(["generate", "--prompt", "--zzzzzzzzzzzzzzzzzzzzzz", "--system=--prompts"]);
        Assert.Empty(parsed.Errors);
        Assert.Equal("--zzzzzzzzzzzzzzzzzzzzzz", parsed.GetValue<string?>("--prompt"));
        Assert.Equal("--prompts", parsed.GetValue<string?>("--system"));
    }

    [Theory]
    [InlineData("train --lr fast", "fast")]
    [InlineData("train --rank 1.5", "1.5")]
    [InlineData("train --quick=perhaps", "perhaps")]
    [InlineData("train --profile best", "recommended")]
    [InlineData("train --n_epochs", "--n_epochs")]
    [InlineData("generate --coefficient x", "'x'")]
    [InlineData("train something", "something")]
    public void Unreadable_values_are_usage_errors(string line, string named)
    {
        CliResult result = CliRun.Run(line.Split(' '));
        Assert.Equal(ExitCodes.Usage, result.Code);
        Assert.Contains(named, Assert.Single(result.ErrorLines));
    }

    [Fact]
    public void A_GPU_without_its_driver_stops_in_one_line_that_says_what_is_missing()
    {
        if (NativeCudaDriver.TryOpen(out _) is not null)
            Assert.Skip("there is an NVIDIA driver here");
        CliResult result = CliRun.Run("train", "--device", "cuda:1");
        Assert.Equal(ExitCodes.UserError, result.Code);
        string error = Assert.Single(result.ErrorLines);
        Assert.StartsWith("error: CUDA: ", error);
        Assert.Contains("was not found", error);
        Assert.Contains("--device cpu", error);
        Assert.Contains("was not found", CliRun.Run("doctor").Out);
    }

    [Fact]
    public void A_device_that_is_not_known_stops_in_one_line()
    {
        CliResult result = CliRun.Run("train", "--device", "tpu");
        Assert.Equal(ExitCodes.UserError, result.Code);
        Assert.Equal("error: --device tpu is not known; it is cpu, cuda, cuda:N with the number of a GPU, or auto", Assert.Single(result.ErrorLines));
    }

    [Theory]
    [InlineData("train --device cuda --precision fast", "error: precision 'fast' is not known; it is exact (fp32 accuracy) or bf16 (products of layers and attention round their operands to bf16)")]
    [InlineData("train --precision bf16", "error: --precision bf16 is the GPU's, and --device auto is the CPU, which computes in fp32; leave --precision out, or add --device cuda")]
    [InlineData("generate --device cpu --precision bf16 --prompt x", "error: --precision bf16 is the GPU's, and --device cpu is the CPU, which computes in fp32; leave --precision out, or add --device cuda")]
    public void A_precision_that_cannot_be_stops_in_one_line(string line, string error)
    {
        CliResult result = CliRun.Run(line.Split(' '));
        Assert.Equal(ExitCodes.UserError, result.Code);
        Assert.Equal(error, Assert.Single(result.ErrorLines));
    }

    [Fact]
    public void Help_names_every_verb_option_and_exit_code()
    {
        var session = new Session(TextReader.Null, TextWriter.Null, TextWriter.Null);
        RootCommand root = CliApp.Build(session);
        string top = CliRun.Run("--help").Out;
        foreach (Command verb in root.Subcommands)
        {
            Assert.Contains(verb.Name, top);
            CliResult help = CliRun.Run(verb.Name, "--help");
            Assert.Equal(ExitCodes.Ok, help.Code);
            foreach (Option option in verb.Options)
                Assert.Contains(option.Name, help.Out);
            Assert.Contains("143", help.Out);
        }
    }

    /// <summary>Lines that name a verb somewhere, rightly or not, and lines that name none; + is a blank within a word.</summary>
    public static TheoryData<string> AnyLines { get; } =
    [
        "", "--help", "-h", "--version", "foo", "trian", "trian --rank 3", "foo train", "foo --x train", "foo train --rank 3", "foo vector", "--help train", "--rank 3 train", "--version fetch",
        "train", "train foo", "train generate", "train --rnak 3", "train --rank x", "train --rank", "train --help", "train --version", "train --bogus --help", "generate train", "generate --prompt train",
        "vector", "vector foo", "vector train", "vector train --rnak 3", "vector apply --help", "vector train generate", "vector generate", "fetch", "fetch a/b c/d", "fetch --adapter=maybe a/b", "doctor -- train",
        "[suggest:3] tra", "[suggest:11] train+--ran", "[suggest:7] vector+", "[foo] train", "-- train", "make-demo --help", "plot-losses --outptu_dir x",
    ];

    [Theory]
    [MemberData(nameof(AnyLines))]
    public void A_verb_alone_answers_as_it_does_among_all(string line)
    {
        string[] args = [.. line.Split(' ', StringSplitOptions.RemoveEmptyEntries).Select(word => word.Replace('+', ' '))];
        Assert.Equal(Answer(args, null), Answer(args, args));

        static string Answer(string[] args, string[]? built)
        {
            using var output = new StringWriter();
            RootCommand root = CliApp.Build(new Session(TextReader.Null, output, output), built);
            try
            {
                ParseResult parsed = CliApp.Parse(root, args);
                if (CliApp.Complaint(root, parsed, args) is { } complaint)
                    return complaint;
                // Help, version and completions print; no verb is run.
                if (parsed.Action != parsed.CommandResult.Command.Action)
                    parsed.Invoke(new InvocationConfiguration { Output = output, Error = output });
                return $"{parsed.CommandResult.Command.Name}: {string.Join(' ', parsed.CommandResult.Children)} {output}";
            }
            catch (UsageException e)
            {
                return e.Message;
            }
        }
    }

    [Fact]
    public void Every_verb_has_the_name_that_it_is_built_by()
    {
        var session = new Session(TextReader.Null, TextWriter.Null, TextWriter.Null);
        Assert.Equal(CliApp.Verbs, CliApp.Build(session).Subcommands.Select(c => c.Name));
        Assert.All(CliApp.Verbs, name => Assert.Equal(name, Assert.Single(CliApp.Build(session, [name]).Subcommands).Name));
    }

    [Fact]
    public void A_group_lists_its_verbs_and_asks_for_one_of_them()
    {
        string[] verbs = ["train", "apply", "show", "combine", "export", "import"];
        string help = CliRun.Run("vector", "--help").Out;
        Assert.Contains("Usage: repeng-native vector VERB [options]", help);
        Assert.All(verbs, v => Assert.Contains($"\n  {v} ", help));
        CliResult none = CliRun.Run("vector"), unknown = CliRun.Run("vector", "trian");
        Assert.Equal((ExitCodes.Usage, ExitCodes.Usage), (none.Code, unknown.Code));
        Assert.Contains($"no verb of vector is given; known: {string.Join(", ", verbs)}", none.Error);
        Assert.Contains("unknown verb 'trian' of vector, did you mean train?", unknown.Error);
    }

    [Fact]
    public void No_verb_is_a_usage_error_with_help()
    {
        CliResult result = CliRun.Run();
        Assert.Equal(ExitCodes.Usage, result.Code);
        Assert.Contains("train", result.Error);
    }

    private static (RootCommand, ParseResult, string[]) Parse(string[] args)
    {
        RootCommand root = CliApp.Build(new Session(TextReader.Null, TextWriter.Null, TextWriter.Null));
        return (root, CliApp.Parse(root, args), args);
    }
}
