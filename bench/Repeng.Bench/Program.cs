using Repeng.Bench;

try
{
    return args switch
    {
        ["matmul", .. var rest] => MatMulBench.Run(rest),
        _ => Usage(),
    };
}
catch (TypeInitializationException e) when (e.TypeName == "TorchSharp.torch")
{
    Console.Error.WriteLine("the peer's native library does not load; where ldd on libLibTorchSharp.so misses GLIBCXX_3.4.32, see bench/libstdcxx-shim.sh");
    return 1;
}

static int Usage()
{
    Console.Error.WriteLine("""
        usage: dotnet run -c Release --project bench/Repeng.Bench -- BENCH [options]
          matmul   the CPU matrix product beside TorchSharp's
                   --threads N    threads of both (default: every core)
                   --only TEXT    rows whose description contains TEXT (repeatable: all must match)
                   --type T       type of the weight: f32 (default), bf16, f16; the peer gets the same
                   --seconds S    time per row and engine (default 0.2)
                   --no-peer      ours alone
                   --cpu-time     CPU time instead of wall time, for a busy machine; use with --threads 1
        """);
    return 2;
}
