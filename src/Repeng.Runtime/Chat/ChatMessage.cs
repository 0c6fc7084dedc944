namespace Repeng.Runtime.Chat;

/// <summary>
/// One turn of a conversation with plain text content. Turns with tool calls, content lists or other fields
/// go to the template as JSON instead (<see cref="ChatTemplate.Render(System.Text.Json.JsonElement, ChatRenderOptions?)"/>).
/// </summary>
/// <param name="Role">Who speaks: usually <c>system</c>, <c>user</c> or <c>assistant</c>.</param>
/// <param name="Content">The text of the turn.</param>
public sealed record ChatMessage(string Role, string Content);
