using System.Text.Json;

namespace Repeng.Runtime.Chat;

/// <summary>
/// What a conversation is rendered with: the arguments of Hugging Face's <c>apply_chat_template</c>.
/// </summary>
public sealed record ChatRenderOptions
{
    private static readonly IReadOnlyDictionary<string, object?> s_none = new Dictionary<string, object?>();

    /// <summary>The options used when none are given.</summary>
    public static ChatRenderOptions Default { get; } = new();

    /// <summary>Ends the prompt with the header of a new assistant turn. Cannot be combined with <see cref="ContinueFinalMessage"/>.</summary>
    public bool AddGenerationPrompt { get; init; }

    /// <summary>Leaves the final message open, so that the model goes on where it stops.</summary>
    public bool ContinueFinalMessage { get; init; }

    /// <summary>A JSON array of tool descriptions, or null.</summary>
    public JsonElement? Tools { get; init; }

    /// <summary>A JSON array of documents for retrieval templates, or null.</summary>
    public JsonElement? Documents { get; init; }

    /// <summary>
    /// Special tokens by attribute name (<c>bos_token</c>, <c>eos_token</c>, …), as <see cref="ChatTemplateSet.SpecialTokens"/> gives them.
    /// A token that the model lacks is left out, not null: templates then see an undefined variable.
    /// </summary>
    public IReadOnlyDictionary<string, object?> SpecialTokens { get; init; } = s_none;

    /// <summary>
    /// Further template variables (<c>enable_thinking</c>, <c>date_string</c>, …); they win over special tokens of the same name.
    /// Values: null, bool, int, long, BigInteger, float, double, string, <see cref="JsonElement"/>, or lists and string-keyed
    /// dictionaries of these.
    /// </summary>
    public IReadOnlyDictionary<string, object?> Variables { get; init; } = s_none;

    /// <summary>What <c>strftime_now</c> takes for now; the local time when null.</summary>
    public DateTime? Now { get; init; }
}
