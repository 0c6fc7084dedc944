using Repeng.Bench;
using Repeng.Bench.Boards;
using Repeng.Bench.Decoding;
using Repeng.Bench.Experts;
using Repeng.Bench.Hub;
using Repeng.Bench.Kernels;
using Repeng.Bench.Llama;
using Repeng.Bench.Packed;
using Repeng.Bench.Scaling;
using Repeng.Bench.Startup;
using Repeng.Bench.Svd;
using Repeng.Bench.Tokens;
using Repeng.Bench.Training;
using Repeng.Bench.Vectors;
using Repeng.Kernels;

try
{
    return args switch
    {
        ["matmul", .. var rest] => MatMulBench.Run(rest),
        ["kernels", .. var rest] => KernelBench.Run(rest),
        ["packed", .. var rest] => PackedBench.Run(rest),
        ["decode", .. var rest] => DecodeBench.Run(rest),
        ["board", .. var rest] => Board.Run(rest),
        ["svd", .. var rest] => SvdBench.Run(rest),
        ["first-step", .. var rest] => FirstStepBench.Run(rest),
        ["llama", .. var rest] => LlamaBench.Run(rest),
        ["experts", .. var rest] => ExpertsBench.Run(rest),
        ["train", .. var rest] => TrainBench.Run(rest),
        ["vectors", .. var rest] => VectorBench.Run(rest),
        ["fisher", .. var rest] => FisherBench.Run(rest),
        ["scaling", .. var rest] => ScalingBench.Run(rest),
        ["hub", .. var rest] => HubBench.Run(rest),
        ["tokenizer", .. var rest] => TokenizerBench.Run(rest),
        _ => Usage(),
    };
}
catch (TypeInitializationException e) when (e.TypeName == "TorchSharp.torch")
{
    Console.Error.WriteLine("the peer's native library does not load; where ldd on libLibTorchSharp.so misses GLIBCXX_3.4.32, see bench/libstdcxx-shim.sh");
    return 1;
}

catch (UserErrorException e)
{
    Console.Error.WriteLine(e.Message);
    return 2;
}

static int Usage()
{
    Console.Error.WriteLine("""
        usage: dotnet run -c Release --project bench/Repeng.Bench -- BENCH [options]
          board    every benchmark below with its peers; writes bench/boards/cpu-MACHINE.md
                   --only JOB     one of them (repeatable); the others' rows are kept; JOB:TEXT passes --only TEXT on to it
                   --machine NAME in the place of processor, cores and instruction set
                   --published FOLDER  what tests/publish.sh --aot FOLDER made, for first-step and hub
          svd      leading singular triplets beside MathNet
                   --rows N --cols N --rank N --runs N --part N
                                  9728, 2560, 64, 3; both at an eighth of the sides (8)
          first-step  seconds from the start of the command line to the end of the demo's first training step
                   --runs N       (7)
                   --published FOLDER  also the programs that tests/publish.sh --aot FOLDER made: one file with the runtime, and native
          matmul   the CPU matrix product beside TorchSharp's
                   --threads N    threads of both (default: every core)
                   --only TEXT    rows whose description contains TEXT (repeatable: all must match)
                   --type T       type of the weight: f32 (default), bf16, f16; the peer gets the same
                   --seconds S    time per row and engine (default 0.2)
                   --no-peer      ours alone
                   --cpu-time     CPU time instead of wall time, for a busy machine; use with --threads 1
          decode   the steering tax: a token with an adapter or a vector at c beside the same token at c = 0
                   --model M      a GGUF file or folder (default: the SmolLM2 GGUF in ../shared/models)
                   --tokens N --rows N --rank N --targets REGEX --threads N
                                  300, 1, 64, gate and down of nine blocks, every core
                   --distinct     every row has its own coefficient
                   --stored       weights as the file stores them, not expanded to fp32
                   --vector       a control vector on every block in the place of the adapter
          llama    generation from a GGUF file beside llama.cpp: decode and prompt, tokens a second (installs the peer on first use; needs node)
                   --model M --tokens N --prompt N --runs N --threads N --no-peer
                                  the SmolLM2 GGUF in ../shared/models, 128, 512, 7, every core
                   --expanded     ours from fp32 weights
                   --profile      time of each kind of op in ours, instead
          experts  a mixture of experts beside a dense model of the same active size, random weights: tokens a second
                   --hidden N --layers N --experts N --per-token N --width N --tokens N --runs N --threads N
                                  512, 6, 32, 4, 384 (of an expert), 512, 7, every core
          vectors  a control vector on every block of a real model beside the same mathematics in TorchSharp
                   --model M --pairs N --runs N --batch N --threads N
                                  the SmolLM2 GGUF in ../shared/models, 60, 3, 16 rows (of both), every core
                   --method M     pca_diff (default), fisher_steer_emp_reg2 or fisher_steer_cov_reg1
          fisher   one wide layer by fisher_steer_cov_reg1 beside a dense solve in TorchSharp: seconds and memory
                   --width N --pairs N --threads N
                                  9728, 1145, every core
                   --no-peer      ours alone
          kernels  single ops by BenchmarkDotNet beside TorchSharp where it has the same: products, attention, norms, log-softmax, Cayley, AdamW, packed products, SVD
                   --only TEXT    rows whose name contains TEXT (repeatable: any of them); --list names all
                   --quick        one short turn in the place of three
                   --threads N    threads of both (default: every core)
                   --no-peer      ours alone
                   --log          BenchmarkDotNet's own output too
          packed   quantised weights beside bf16 ones: products (--forms A,B --threads N --seconds S), train (--form NF4
                   and the options of train), first-token (--model M --tokens N --expanded: load to first token, resident memory;
                   --started [--published FOLDER]: the command line, from the start of its process to the first text)
          train    a training step of an SVD adapter beside the same mathematics in TorchSharp
                   --model M      a GGUF file or folder of a llama model (default: the SmolLM2 GGUF in
                                  ../shared/models), or random weights: "shape" (SmolLM2-135M's), "qwen3-0.6b" (ours alone)
                   --weights W    how ours are held: f32 (default), stored (as the file has them), bf16 or nf4 (random weights)
                   --peer-type T  what the peer computes in: f32 (default) or bf16
                   --peak         our peak memory alone, from the start of the process
                   --engine E     ours, torch or both (default)
                   --runs N       timed runs of each engine, alternating, after two that warm up (default 5)
                   --rows N --tokens N --rank N --targets REGEX --threads N
                                  14, 64, 64, gate and down of nine blocks, every core
                   --cached-reference        rates and ratio without the base model's pass
                   --checkpoint-activations  ours runs blocks again instead of keeping their activations
                   --micro-batch N           ours runs so many rows together
                   --text-by-text            ours runs each text by itself, also where texts begin alike
                   --peer-separate           the peer takes c = -1 and +1 one after the other, not stacked
                   --no-memory    leave out the two processes that measure peak memory
                   --cpu-time     CPU time instead of wall time, for a busy machine; use with --threads 1
                   --profile      time of each kind of op in our step, instead
          scaling  a training step and a token of models of real shapes (random weights) beside the formula of plan; writes bench/boards/scaling-MACHINE.md
                   --model NAME   one shape, its rows alone (default: each in a process of its own)
                   --storage S    bf16 (default) or nf4 (linear weights of the blocks)
                   --runs N --threads N --machine NAME
                                  3, every core, as board
                   --no-training, --no-decoding   leave those rows as they are
          tokenizer  encoding and decoding of this repository's files beside Microsoft.ML.Tokenizers, by the tokenizers in ../shared
                   --only TEXT --runs N      those whose path contains TEXT, runs in turns (7)
                   --no-peer      ours alone
                   --load         loads in fresh processes instead
          hub      the command line's fetch of a large file from a hub on this machine, whole and killed twice, beside curl
                   --mb N --runs N           size in MiB (1024), runs in turns (3)
                   --published FOLDER        as for first-step
        """);
    return 2;
}
