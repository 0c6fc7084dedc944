namespace Repeng.Steering.Models;

/// <summary>How training texts deal with a thinking model.</summary>
/// <param name="Inside">Suffixes stand inside of an open block of thoughts; else they begin the answer.</param>
/// <param name="Tag">Tags of the block where the chat template's are not to be taken, as <see cref="Runtime.Chat.ThinkTags.Parse"/> reads them; null for the template's.</param>
/// <param name="Enable">Switches the template's thinking; null leaves it as it is.</param>
public sealed record ThinkingTexts(bool Inside, string? Tag = null, bool? Enable = null);
