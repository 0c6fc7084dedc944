using System.Text.Json;
using Repeng.Runtime.Chat;

namespace Repeng.Runtime.Tests.Chat;

/// <summary>Short ways to render in tests.</summary>
internal static class Chats
{
    public static readonly ChatMessage[] Hello = [new("user", "Hi")];

    public static string Render(string template, params (string Name, object? Value)[] variables)
        => ChatTemplate.Parse(template, "test").Render(Hello, With(variables));

    public static ChatTemplateException Fails(string template, params (string Name, object? Value)[] variables)
        => Assert.Throws<ChatTemplateException>(() => Render(template, variables));

    public static ChatRenderOptions With(params (string Name, object? Value)[] variables)
        => new() { Variables = variables.ToDictionary(v => v.Name, v => v.Value), Now = new DateTime(2024, 7, 6, 15, 4, 5) };

    public static JsonElement Json(string json)
    {
        using JsonDocument document = JsonDocument.Parse(json);
        return document.RootElement.Clone();
    }
}
