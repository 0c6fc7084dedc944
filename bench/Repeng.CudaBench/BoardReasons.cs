namespace Repeng.CudaBench;

internal static partial class Board
{
    private const string Diagonal = "tiles on the diagonal are computed whole: 16 tokens by 32 keys for 64 tokens are 1.5 times what is seen, 1.06 for 512; attention is 0.2 % of the step's FLOP at 64 tokens";
    private const string Halves = "two warps share 16 keys or rows and compute their scores both, so that the sums of a head of this size stay in registers; and tiles on the diagonal are computed whole";
    private const string Decode = "an mma has 16 rows, a token of 4 query heads a key head fills 4; the kernel is bound by the bytes of K and V";
    private const string FromCache = "each element reads its block's scales and its byte for itself: neighbours find them in L1, DRAM gives each sector once";
    private const string Double = "the matrix is worked on in place, in doubles; it stays in L1 and L2 (256 matrices of 64 × 64 are 8 MiB)";
    private const string Code = "a tile of 32 of K takes 16 of the 32 bytes of a sector of codes and 4 of a scale's; the next tile finds them in L1";

    /// <summary>Why a kernel misses a target, by kernel and target; a name may end in *.</summary>
    public static IReadOnlyList<(string Kernel, string Target, string Reason)> Reasons { get; } =
    [
        ("attention_forward_256", "mma", Halves),
        ("attention_keys_128", "mma", Halves),
        ("attention_keys_256", "mma", Halves),
        ("attention_queries_128", "mma", Halves),
        ("attention_queries_256", "mma", Halves),
        ("attention_split_*", "mma", Decode),
        ("attention_*", "mma", Diagonal),
        ("attention_join", "traffic", "every thread of a row reads the maxima and denominators of its stretches, 8 bytes of a sector each, from L1"),
        ("matvec_f32_*", "traffic", "a lane holds eight neighbours, which are 32 bytes of fp32: its two loads of 16 bytes ask for the same sector, the second finds it in L1"),
        ("matmul_groups_*", "mma", "tiles have 64 rows, an expert has as many as the router gives it: 64, 128 and 70 rows fill 262 of 320"),
        ("matmul_codes_*", "traffic", Code),
        ("unpack_codes_*", "traffic", "double quantised scales are three dependent loads of 1 to 4 bytes, a sector each, from L1"),
        ("pack_codes", "traffic", "the 15 borders and the order of the codes are read again for every element, from L1"),
        ("round_several", "traffic", "a turned matrix is written by 16 bytes a thread, half of a sector: the factor of an adapter, some per mille of what a step rounds"),
        ("unpack_*", "traffic", FromCache),
        ("lookup_*", "traffic", FromCache),
        ("matmul_blocks_*", "traffic", FromCache),
        ("matvec_blocks_*", "traffic", FromCache),
        ("matvec_groups_f32", "traffic", "as matvec_f32_*: two loads of 16 bytes ask for the same sector, the second finds it in L1"),
        ("term_mix", "traffic", "M is read once a row, from L1"),
        ("sum_partials", "traffic", "the vocabulary's partial sums stand in pairs of doubles of which one is read: 16 bytes a row and chunk in all"),
        ("log_sum_exp_fold", "traffic", "a thread a row over its pairs of doubles: 16 bytes a row and chunk in all"),
        ("cayley_*", "traffic", Double),
        ("matrix_exp_*", "traffic", Double),
        ("route_forward", "traffic", "a choice is a pass over the row's logits, which lie in L1: twice 8 passes of 512 bytes"),
        ("sample", "traffic", "2 (greedy) to 17 passes over a row of logits, from L2 (a row of Qwen3's vocabulary is 0.6 MB): no sort"),
        ("pack_scales", "banks", "a search in a table of 256 values by data; no main loop of products"),
        ("cayley_forward_*", "banks", "a column of pivots is read down a matrix of doubles whose rows are whole multiples of the banks; 64 × 64 lies in shared memory unpadded so that 144 × 144 fits"),
        ("sample", "banks", "counts of digits go to places that the data choose"),
    ];
}
