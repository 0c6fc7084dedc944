using Repeng.CudaBench;
using Repeng.Kernels;

try
{
    return args switch
    {
        ["board", .. var rest] => Board.Run(rest),
        ["plan", .. var rest] => StepPlan.Run(rest),
        _ => Usage(),
    };
}
catch (UserErrorException e)
{
    Console.Error.WriteLine(e.Message);
    return 2;
}

static int Usage()
{
    Console.Error.WriteLine("""
        usage: dotnet run -c Release --project bench/Repeng.CudaBench -- BENCH [options]
          board    every CUDA kernel at Qwen3-4B's shapes, cut to a few blocks, on the emulator: sectors asked, ways of
                   shared memory and tensor-core work beside the least possible
                   --only TEXT   kernels whose name contains TEXT
                   --write       write bench/boards/cuda-emulated.md
          plan     milliseconds a kernel of a training step of Qwen3-4B (NF4, 14 rows of 64 tokens, two coefficients) on an H100
                   and an H200, from bytes, FLOP and instructions that the emulator counts and rates that are assumed
                   --rows N      rows of the batch (14)
                   --own N       tokens of each text that no other has (64); those before them are one of two beginnings
                   --bf16        weights in bf16
                   --rounded     only the step with --precision bf16, with cuBLASLt and without
                   --write       write docs/cuda-plan.md, for 14 and 28 rows and for 28 that begin alike
        """);
    return 2;
}
