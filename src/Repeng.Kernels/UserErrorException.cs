namespace Repeng.Kernels;

/// <summary>
/// A mistake that the person who runs the program can mend: a bad file, option, shape or text.
/// The message says what is wrong, where, with the numbers, and what to do next; it is shown without a stack trace.
/// </summary>
public class UserErrorException(string message, Exception? inner = null) : Exception(message, inner);
