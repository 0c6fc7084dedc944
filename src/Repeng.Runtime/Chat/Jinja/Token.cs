namespace Repeng.Runtime.Chat.Jinja;

internal enum TokenKind
{
    Data, VariableBegin, VariableEnd, BlockBegin, BlockEnd,
    Name, String, Integer, Float, End,
    Add, Sub, Mul, Div, FloorDiv, Mod, Pow, Tilde,
    LeftBracket, RightBracket, LeftParen, RightParen, LeftBrace, RightBrace,
    Equal, NotEqual, Greater, GreaterEqual, Less, LessEqual,
    Assign, Dot, Colon, Pipe, Comma, Semicolon,
}

/// <summary>One token: its text as read (names, data, operators) and its value (decoded strings, numbers).</summary>
internal readonly record struct Token(TokenKind Kind, string Text, object? Value, int Line)
{
    public bool IsName(string name) => Kind == TokenKind.Name && Text == name;

    /// <summary>How an error message calls this token.</summary>
    public string Describe() => Kind switch
    {
        TokenKind.End => "end of template",
        TokenKind.Data => "template text",
        TokenKind.VariableBegin => "{{",
        TokenKind.VariableEnd => "}}",
        TokenKind.BlockBegin => "{%",
        TokenKind.BlockEnd => "%}",
        TokenKind.String => "a string",
        TokenKind.Integer or TokenKind.Float => "a number",
        _ => Text.Length > 40 ? Text[..40] + "…" : Text,
    };
}
