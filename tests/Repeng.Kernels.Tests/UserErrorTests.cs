namespace Repeng.Kernels.Tests;

/// <summary>What a person reads.</summary>
public sealed class UserErrorTests
{
    [Theory]
    [InlineData("plain é 𐀀 \"quoted\"", "plain é 𐀀 \"quoted\"")]
    [InlineData("a\nb\r\nc\td", "a\\nb\\r\\nc\\td")]
    [InlineData("\u001b[2J\0\u0085\u2028", "\\u001B[2J\\u0000\\u0085\\u2028")]
    public void AMessageIsOneLineThatNoTerminalObeys(string given, string shown) => Assert.Equal(shown, new UserErrorException(given).Message);
}
