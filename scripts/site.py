"""A hook of mkdocs: pages made of what lies elsewhere in the repository, and links from pages to its files.

Nothing of it is committed: the reference is made of the CRD and of the command line's source whenever the site is built,
so that it cannot be stale. What cannot be read is an error.
"""

import json
import pathlib
import posixpath
import re

import yaml
from markdown.extensions.toc import slugify
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File

ROOT = pathlib.Path(__file__).resolve().parent.parent
CRD = "crds/inferencebenchmarks.inferbench.dev.yaml"
CLI = "runner/src/cli.rs"
# Pages that are files of the repository as they stand.
COPIES = {
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
    "charts/inferbench/README.md": "reference/chart.md",
}
# Pages that are made of files, which stand for them in the repository.
MADE = {CRD: "reference/resource.md", CLI: "reference/cli.md"}
# Kubernetes' own types, which its reference describes.
KUBERNETES = {"affinity", "env", "podOverrides", "resources", "tolerations", "conditions"}
LINK = re.compile(r"(?<=\]\()(?![a-z]+:|#|/)([^)\s#]+)(#[^)\s]*)?(?=\))")


def on_files(files, config):
    """Adds what is made here, and the files that pages link to."""
    check_readme()
    sources = {file.src_uri: f"docs/{file.src_uri}" for file in files.documentation_pages()}
    texts = {uri: (ROOT / path).read_text() for uri, path in sources.items()}
    for path, uri in COPIES.items():
        sources[uri], texts[uri] = path, (ROOT / path).read_text()
    pages = {path: uri for uri, path in sources.items()} | MADE
    linked = set()
    for uri, text in texts.items():
        text = relink(text, uri, sources[uri], pages, linked)
        replace(files, config, uri, text)
    for path, text in ((CRD, resource()), (CLI, commands())):
        replace(files, config, MADE[path], text)
    for path in sorted(linked):
        replace(files, config, shown(path), (ROOT / path).read_text())
    return files


def replace(files, config, uri, text):
    if old := files.get_file_from_path(uri):
        files.remove(old)
    files.append(File.generated(config, uri, content=text))


def shown(path):
    """Where a file of the repository lies in the site: as a text, which browsers show and do not save."""
    return f"source/{path}.txt"


def relink(text, uri, path, pages, linked):
    """The text with its links as they have to be in the site: written in the repository, they follow its folders."""

    def target(match):
        there = posixpath.normpath(posixpath.join(posixpath.dirname(path), match[1]))
        if there in pages:
            to = pages[there]
        elif there.startswith("docs/"):
            to = there.removeprefix("docs/")
        elif (ROOT / there).is_file():
            linked.add(there)
            to = shown(there)
        else:
            raise PluginError(f"{path}: a link to {match[1]}, which is no file of the repository")
        return posixpath.relpath(to, posixpath.dirname(uri) or ".") + (match[2] or "")

    return LINK.sub(target, text)


def check_readme():
    """README.md is no page; its links, too, have to lead somewhere."""
    for path, anchor in LINK.findall((ROOT / "README.md").read_text()):
        if not (ROOT / path).exists():
            raise PluginError(f"README.md: a link to {path}, which is not there")
        headings = re.findall(r"^#+ (.*)$", (ROOT / path).read_text(), re.M) if anchor else []
        if anchor and anchor[1:] not in [slugify(heading, "-") for heading in headings]:
            raise PluginError(f"README.md: a link to {path}{anchor}, which has no such heading")


def table(head, rows):
    lines = [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}"]
    return "\n".join(lines + [f"| {' | '.join(cell.replace('|', '&#124;') for cell in row)} |" for row in rows])


# The resource.


def resource():
    crd = yaml.safe_load((ROOT / CRD).read_text())["spec"]
    (version,) = crd["versions"]
    schema = version["schema"]["openAPIV3Schema"]["properties"]
    parts = [
        f"# Every field of {crd['names']['kind']}",
        f"`apiVersion: {crd['group']}/{version['name']}`, `kind: {crd['names']['kind']}`, short name "
        f"`{crd['names']['shortNames'][0]}`. Made of the CustomResourceDefinition when this site is built. [The "
        "file](../spec.md) explains how the fields belong together. Durations are written as `90s`, `1m30s` or `500ms`.",
    ]
    for top in ("spec", "status"):
        simple = []
        for name, node in schema[top]["properties"].items():
            if name not in KUBERNETES and members(node):
                parts += section(f"{top}.{name}", node)
            else:
                simple.append(row(name, node, name in schema[top].get("required", [])))
        if simple:
            parts += [f"## Other fields of {top}", table(HEAD, simple)]
    columns = [[f"`{c['name']}`", f"`{c['jsonPath']}`"] for c in version["additionalPrinterColumns"]]
    parts += ["## Columns of kubectl get", table(["column", "what it shows"], columns)]
    return "\n\n".join(parts) + "\n"


HEAD = ["field", "type", "what it is"]


def section(name, node):
    rows, rules = [], []

    def visit(node, path):
        rules.extend((path, rule) for rule in node.get("x-kubernetes-validations", []))
        within = members(node)
        if not within:
            return
        suffix, node = within
        for member, child in node["properties"].items():
            at = f"{path}{suffix}.{member}".lstrip(".")
            rows.append(row(at, child, member in node.get("required", [])))
            if member not in KUBERNETES:
                visit(child, at)

    visit(node, "")
    parts = [f"## {name}", sentence(node.get("description", "")), table(HEAD, rows)]
    if rules:
        told = [f"- {f'`{path}`: ' if path else ''}{rule.get('message') or '`' + rule['rule'] + '`'}" for path, rule in rules]
        parts += ["Rules:", "\n".join(told)]
    return [part for part in parts if part]


def members(node):
    """The suffix and the schema that have named members: of a map itself, or of what a list or a map of names holds."""
    for suffix, inner in (("", node), ("[]", node.get("items")), (".*", node.get("additionalProperties"))):
        if isinstance(inner, dict) and inner.get("properties"):
            return suffix, inner
    return None


def row(path, node, required):
    default = f"; default `{json.dumps(node['default'], ensure_ascii=False)}`" if node.get("default", {}) != {} else ""
    text = sentence(node.get("description", ""))
    inner = node.get("items") or node.get("additionalProperties")
    if isinstance(inner, dict) and not inner.get("properties") and inner.get("description"):
        text += f" Each: {sentence(inner['description'])}"
    # Long names break at their dots.
    name = f"<code>{path.replace('.', '.<wbr>')}</code>"
    return [name, kind(node) + ("; *required*" if required else default), text]


def kind(node):
    """What a value may be, in a few words."""
    inner = node.get("items") or node.get("additionalProperties")
    text = kind_alone(node)
    for low, high in (("minItems", "maxItems"), ("minProperties", "maxProperties")):
        if node.get(high):
            text += f" ({f'{node[low]} to ' if low in node else 'at most '}{node[high]:,})"
    return f"{text} of {kind_alone(inner)}" if isinstance(inner, dict) else text


def kind_alone(node):
    if "enum" in node:
        return ", ".join(f"`{value}`" for value in node["enum"])
    if node.get("x-kubernetes-int-or-string"):
        return "number or text"
    names = {"array": "list", "object": "map", "string": "text", "boolean": "true or false", None: "any"}
    pattern = node.get("pattern", "")
    text = "duration" if "(ms|s|m|h)" in pattern else names.get(node.get("type"), node.get("type"))
    low, high = node.get("minimum"), node.get("maximum")
    if low is not None and high is not None:
        text += f", {low:,} to {high:,}"
    elif low is not None:
        text += f", at least {low:,}"
    return text


def sentence(text):
    return " ".join(text.split())


# The command line, as clap has it.


def commands():
    source = (ROOT / CLI).read_text().split("#[cfg(test)]")[0]
    items = {name: (attributes, body) for attributes, name, body in declarations(source)}
    if not {"Cli", "Command"} <= items.keys():
        raise PluginError(f"{CLI}: no Cli or no Command that scripts/site.py can find")
    parts = [
        "# Commands",
        f"{sentence(comment(items['Cli'][0]))} Made of the program's source when this site is built; "
        "`inferbench help COMMAND` says the same.",
    ]
    for variant in variants(items["Command"][1]):
        if "hide = true" not in variant["attributes"]:
            parts += command(variant, items, "inferbench")
    if codes := re.search(r"(Exit codes: [^\"]+)\"", source):
        parts += ["## Exit codes", codes[1].removeprefix("Exit codes: ").strip()]
    return "\n\n".join(parts) + "\n"


def declarations(source):
    """Each struct and enum with what stands above it and what it holds."""
    above = 0
    for found in re.finditer(r"^pub (?:struct|enum) (\w+) \{\n(.*?)^\}|^\}$", source, re.M | re.S):
        if found[1]:
            yield source[above : found.start()], found[1], found[2]
        above = found.end()


def variants(body):
    return [
        {"attributes": above, "name": name, "of": of}
        for above, name, of in re.findall(r"((?:^    (?:///|#\[).*\n)*)^    (\w+)(?:\((\w+)\))?,", body, re.M)
    ]


def fields(body):
    pattern = r"((?:^    (?:///|#\[).*\n|^     .*\n|^    \)\]\n)*)^    pub (\w+): ([^\n]+),\n"
    return [{"attributes": above, "name": name, "type": of} for above, name, of in re.findall(pattern, body, re.M)]


def comment(above):
    """The doc comment: its first paragraph and the others, as one text."""
    return "\n".join(re.findall(r"^ *///(.*)$", above, re.M))


def command(variant, items, before):
    name = f"{before} {kebab(variant['name'])}"
    told = [sentence(part) for part in comment(variant["attributes"]).split("\n\n")]
    parts = [f"## {name}", *told]
    if not variant["of"]:
        return parts
    if variant["of"] not in items:
        raise PluginError(f"{CLI}: {variant['name']} has {variant['of']}, which scripts/site.py cannot find")
    rows, more = [], []
    for field in arguments(items, variant["of"]):
        attributes = field["attributes"]
        if "subcommand" in attributes:
            for inner in variants(items[field["type"]][1]):
                more += command(inner, items, name)
        elif "hide = true" not in attributes:
            rows.append(argument(field, items))
    if rows:
        parts.append(table(["argument", "default", "what it is"], rows))
    return more or parts


def arguments(items, name):
    """The fields of a struct, with those of structs that it takes in."""
    for field in fields(items[name][1]):
        if "flatten" in field["attributes"]:
            yield from arguments(items, field["type"])
        else:
            yield field


def argument(field, items):
    attributes, of = field["attributes"], re.sub(r"^(?:Option|Vec)<(.*)>$", r"\1", field["type"])
    of = re.sub(r"^Vec<(.*)>$", r"\1", of)
    long = re.search(r"\blong(?: = \"([^\"]+)\")?\b", re.sub(r"///.*", "", attributes))
    value = re.search(r'value_name = "([^"]+)"', attributes)
    value = value[1] if value else field["name"].upper()
    if long:
        flag = f"--{long[1] or kebab(field['name'])}"
        name = f"`{flag}`" if of == "bool" else f"`{flag} {value}`"
        if re.search(r"\bshort\b", re.sub(r"///.*", "", attributes)):
            name += f", `-{field['name'][0]}`"
    else:
        name = f"`{value}`"
    default = re.search(r'default_value(?:_t)? = ("[^"]+"|[^,)\]]+)', attributes)
    text = sentence(comment(attributes))
    if of in items and "ValueEnum" in items[of][0]:
        allowed = [given(variant) for variant in variants(items[of][1])]
        text += f" One of {', '.join(f'`{one}`' for one in allowed)}."
    return [name, f"`{default[1].strip(chr(34))}`" if default else "", text]


def given(variant):
    named = re.search(r'name = "([^"]+)"', variant["attributes"])
    return named[1] if named else kebab(variant["name"])


def kebab(name):
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "-", name).lower().replace("_", "-")
