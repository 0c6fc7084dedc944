using System.Runtime.CompilerServices;

namespace Repeng.Runtime.Formats;

/// <summary>
/// In which order a GGUF file has the rows of a projection that Hugging Face orders otherwise. Of q and k of a head whose
/// neighbours are rotated with each other HF row h·(d/2) + i (h = 0, 1) is row 2i + h; of q, k and v in one projection, which GPT-NeoX
/// has head by head, llama.cpp has all of q, then k, then v. Rows stay whole.
/// </summary>
/// <param name="HeadDim">Rows of a head.</param>
/// <param name="Heads">Heads.</param>
/// <param name="Fused">Whether q, k and v are one projection.</param>
internal readonly record struct GgufRows(long HeadDim, long Heads, bool Fused)
{
    /// <summary>Rows of the whole projection.</summary>
    public long Count => HeadDim * Heads * (Fused ? 3 : 1);

    /// <summary>What makes the rows, for messages.</summary>
    public string Text => $"{Count} rows: {(Fused ? "q, k and v of " : "")}{Heads} heads of {HeadDim}";

    /// <summary>The row of the file that holds a row as Hugging Face counts.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public long InFile(long row)
    {
        long head = row / HeadDim, inHead = row % HeadDim, half = HeadDim / 2;
        return Fused ? (head % 3 * Heads + head / 3) * HeadDim + inHead : head * HeadDim + 2 * (inHead % half) + inHead / half;
    }

    /// <summary>The inverse of <see cref="InFile"/>.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public long InSource(long row)
    {
        long head = row / HeadDim, inHead = row % HeadDim;
        return Fused ? (head % Heads * 3 + head / Heads) * HeadDim + inHead : head * HeadDim + inHead % 2 * (HeadDim / 2) + inHead / 2;
    }
}
