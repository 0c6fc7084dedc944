namespace Repeng.CudaBench;

internal static partial class Board
{
    private const string Diagonal = "sub-tiles of 16 rows (4 tokens) by 16 keys that nobody sees are left out, those on the diagonal are computed whole: 1.23 times what is seen at 64 tokens, 1.03 at 512";
    private const string Edge = "sub-tiles that nobody sees are left out, but an mma has 16 rows (4 tokens) or keys and 8 or 16 of the other, of which the diagonal leaves a part: 1.17 and 1.23 at 64 tokens, 1.02 and 1.03 at 512";
    private const string Halves = "two warps share 16 rows, four 16 keys, so that the sums of a head of this size stay in registers, and each computes their scores: tiles of fp32 leave no shared memory to pass them (98,304 of 101,376 bytes), or sixteen rows or keys at a time are too few to share out";
    private const string Decode = "an mma has 16 rows, a token of 4 query heads a key head fills 4; the kernel is bound by the bytes of K and V";
    private const string AsStored = "blocks lie in shared memory as in the file: eight bytes a lane of blocks 17 to 34 bytes apart meet in a bank now and then, and the points of an IQ type's grid by data";

    /// <summary>Why a kernel misses a target, by kernel and target; a name may end in *.</summary>
    public static IReadOnlyList<(string Kernel, string Target, string Reason)> Reasons { get; } =
    [
        ("attention_forward_256", "mma", Halves),
        ("attention_keys_256", "mma", Halves),
        ("attention_queries_256", "mma", Halves),
        ("attention_split_*", "mma", Decode),
        ("attention_forward_rounded_*", "mma", Edge),
        ("attention_queries_rounded_*", "mma", Edge),
        ("attention_keys_rounded_*", "mma", Edge),
        ("attention_*", "mma", Diagonal),
        ("matmul_groups_*", "mma", "tiles have 64 rows, an expert has as many as the router gives it: 64, 128 and 70 rows fill 262 of 320"),
        ("term_mix", "traffic", "M is read once a row, from L1"),
        ("unpack_*", "banks", AsStored),
        ("matvec_blocks_*", "banks", AsStored),
        ("matmul_blocks_nt", "banks", "where W is decoded a read takes every other word of eight lines, 64 in all: two ways; none where fragments are read"),
        ("sample", "banks", "counts of digits go to places that the data choose"),
    ];
}
