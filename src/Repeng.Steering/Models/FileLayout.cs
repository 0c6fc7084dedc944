namespace Repeng.Steering.Models;

/// <summary>
/// How a parameter lies in the model's files where that is not how it lies in memory, [count, rows, columns]: matrices
/// transposed, rows of the upper and the lower half taking turns. Count 0 stands for one matrix without the leading dimension.
/// </summary>
public sealed record FileLayout(int Count, int Rows, int Columns, bool Transposed, bool Interleaved)
{
    /// <summary>Shape in the file.</summary>
    public long[] Shape => [.. Count == 0 ? [] : (long[])[Count], .. Transposed ? [Columns, Rows] : (long[])[Rows, Columns]];

    /// <summary>Values as the file has them.</summary>
    public T[] ToFile<T>(ReadOnlySpan<T> memory)
    {
        var file = new T[memory.Length];
        for (int m = 0; m < Math.Max(1, Count); m++)
            for (int r = 0; r < Rows; r++)
                for (int c = 0; c < Columns; c++)
                    file[At(m, r, c)] = memory[(m * Rows + r) * Columns + c];
        return file;
    }

    /// <summary>Values as memory has them.</summary>
    public T[] FromFile<T>(ReadOnlySpan<T> file)
    {
        var memory = new T[file.Length];
        for (int m = 0; m < Math.Max(1, Count); m++)
            for (int r = 0; r < Rows; r++)
                for (int c = 0; c < Columns; c++)
                    memory[(m * Rows + r) * Columns + c] = file[At(m, r, c)];
        return memory;
    }

    /// <summary>The row of the file that a row of memory lies in.</summary>
    public int FileRow(int row) => !Interleaved ? row : row < Rows / 2 ? 2 * row : 2 * (row - Rows / 2) + 1;

    private int At(int matrix, int row, int column)
    {
        int r = FileRow(row);
        return matrix * Rows * Columns + (Transposed ? column * Rows + r : r * Columns + column);
    }
}
