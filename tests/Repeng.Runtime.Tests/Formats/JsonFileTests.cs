using System.Text;
using Repeng.Kernels;
using Repeng.Runtime.Formats;

namespace Repeng.Runtime.Tests.Formats;

/// <summary>Configuration files: what is read, and how faults are named.</summary>
public sealed class JsonFileTests : IDisposable
{
    private readonly TempFolder _folder = new();

    public void Dispose() => _folder.Dispose();

    [Fact]
    public void FieldsAreReadByType()
    {
        JsonFields f = Read("\uFEFF" + """{"int":8,"whole":8.0,"big":9007199254740993,"real":1e-6,"text":"é","yes":true,"null":null,"inner":{"a":1},"texts":["a"],"numbers":[1,2.5]}""");
        Assert.Equal(8, f.Int32("int"));
        Assert.Equal(8, f.Integer("whole"));
        Assert.Equal(9007199254740993, f.Integer("big"));
        Assert.Equal(1e-6, f.Number("real"));
        Assert.Equal(8.0, f.Number("int"));
        Assert.Equal("é", f.Text("text"));
        Assert.True(f.Boolean("yes"));
        Assert.False(f.Has("null"));
        Assert.Null(f.OptionalInteger("null"));
        Assert.Null(f.OptionalText("absent"));
        Assert.Equal(1, f.Object("inner").Integer("a"));
        Assert.Equal(["a"], f.OptionalTexts("texts")!);
        Assert.Equal([1, 2.5], f.OptionalNumbers("numbers")!);
    }

    [Fact]
    public void FaultsNameFileFieldAndValue()
    {
        JsonFields f = Read("""{"half":8.5,"huge":1e300,"far":99999999999999999999,"text":"x","inner":{},"list":[1,"a"],"null":null}""");
        Fault("'half' is '8.5'; a whole number within 64 bits is needed", () => f.Integer("half"));
        Fault("'huge' is '1e300'; a whole number within 64 bits", () => f.Integer("huge"));
        Fault("'far' is", () => f.Integer("far"));
        Fault("'half' is '8.5'; it must lie from 9 to 10", () => f.Number("half", 9, 10));
        Fault("'text' is '\"x\"'; a number is needed", () => f.Number("text"));
        Fault("'half' is '8.5'; a text is needed", () => f.Text("half"));
        Fault("'inner' is an object; a whole number is needed", () => f.Integer("inner"));
        Fault("'list' is an array of 2; an object is needed", () => f.Object("list"));
        Fault("'list' is '\"a\"'; a number is needed", () => f.OptionalNumbers("list"));
        Fault("'text' is '\"x\"'; true or false is needed", () => f.Boolean("text"));
        Fault("'null' is missing", () => f.Integer("null"));
        Fault("config.json: inner: field 'a' is missing", () => f.Object("inner").Text("a"));
        Fault("field 'x': is odd", () => throw f.Error("x", "is odd"));
    }

    [Theory]
    [InlineData("{", "not valid JSON (line 1, byte 1)")]
    [InlineData("", "not valid JSON")]
    [InlineData("{\"a\":1,}", "not valid JSON")]
    [InlineData("{\"a\":NaN}", "not valid JSON")]
    [InlineData("{\"a\":1,\"a\":2}", "not valid JSON")]
    [InlineData("{\"a\":{\"b\":1,\"b\":2}}", "not valid JSON")]
    [InlineData("{\"a\":\"\\ud800\"}", "no valid Unicode")]
    [InlineData("{\"\\ud800\":1}", "no valid Unicode")]
    [InlineData("[1]", "no object")]
    [InlineData("null", "no object")]
    [InlineData("{} x", "not valid JSON")]
    public void WhatIsNoJsonObjectIsRefused(string json, string message) => Fault(message, () => Read(json));

    [Fact]
    public void OtherFaultsOfAFile()
    {
        Fault("not UTF-8", () => JsonFile.ReadObject(_folder.File("config.json", [(byte)'"', 0xFF, (byte)'"'])));
        Fault("not valid JSON", () => Read(new string('[', 100_000)));
        Fault("has 2 bytes, at most 1 are read", () => JsonFile.ReadObject(_folder.File("config.json", "{}"u8), maxBytes: 1));
        File.Delete(_folder.File("config.json"));
        Fault("no such file", () => JsonFile.ReadObject(_folder.File("config.json")));
        Fault("not UTF-8 text", () => JsonFile.ReadText(_folder.File("config.json", [0xFF])));
        Assert.Equal("ö", JsonFile.ReadText(_folder.File("config.json", Encoding.UTF8.GetBytes("\uFEFFö"))));
    }

    private JsonFields Read(string json) => JsonFile.ReadObject(_folder.File("config.json", Encoding.UTF8.GetBytes(json)));

    private void Fault(string message, Func<object?> read)
    {
        var e = Assert.Throws<UserErrorException>(read);
        Assert.StartsWith(_folder.File("config.json"), e.Message);
        Assert.Contains(message, e.Message);
        Assert.DoesNotContain('\n', e.Message);
    }
}
