"""Fills jinja-cases.json: renders every template in it with Jinja, set up as Hugging Face's apply_chat_template does.

Add a row ["template", null, null] to the file and run this script beside it (needs jinja2) to get its result.
Rows: template, rendered text or null, kind of error or null (the names of ChatTemplateErrorKind).
"""
import datetime
import json
import pathlib

import jinja2
import jinja2.ext
import jinja2.sandbox

PATH = pathlib.Path(__file__).with_name("jinja-cases.json")
NOW = datetime.datetime(2024, 7, 6, 15, 4, 5)


class Generation(jinja2.ext.Extension):
    tags = {"generation"}

    def parse(self, parser):
        line = next(parser.stream).lineno
        body = parser.parse_statements(["name:endgeneration"], drop_needle=True)
        return jinja2.nodes.CallBlock(self.call_method("render"), [], [], body).set_lineno(line)

    def render(self, caller):
        return caller()


class Raised(jinja2.TemplateError):
    pass


def raise_exception(message):
    raise Raised(message)


def tojson(value, ensure_ascii=False, indent=None, separators=None, sort_keys=False):
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def render(environment, template, variables):
    try:
        return environment.from_string(template).render(**variables), None
    except Raised:
        return None, "RaisedByTemplate"
    except (jinja2.UndefinedError, jinja2.exceptions.SecurityError):
        return None, "Undefined"
    except (jinja2.TemplateSyntaxError, SyntaxError):
        return None, "Syntax"
    except Exception:
        return None, "Type"


def main():
    environment = jinja2.sandbox.ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, jinja2.ext.loopcontrols])
    environment.filters["tojson"] = tojson
    environment.globals.update(raise_exception=raise_exception, strftime_now=NOW.strftime)
    data = json.loads(PATH.read_text(encoding="utf-8"))
    variables = dict(data["variables"], messages=data["messages"], tools=None, documents=None, add_generation_prompt=False)
    rows = [json.dumps([template, *render(environment, template, variables)]) for template, _, _ in data["cases"]]
    head = {"jinja": jinja2.__version__, "now": NOW.isoformat(), "messages": data["messages"], "variables": data["variables"]}
    text = json.dumps(head, indent=1)[:-2] + ',\n "cases": [\n' + ",\n".join(rows) + "\n]}\n"
    PATH.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
