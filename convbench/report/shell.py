"""What every page is made with: the template, the scripts with their hashes, the data as escaped JSON.

Text is data everywhere: Jinja2 escapes it in markup, it enters scripts only as escaped JSON, and the page's
Content-Security-Policy lets nothing run but the scripts written here, by their hashes.
"""

from __future__ import annotations

import base64
import hashlib
import json
from contextlib import suppress
from functools import cache
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

from convbench.errors import InputError, OutputError
from convbench.journal import cache_folder, make_folder, write_atomically
from convbench.report import text
from convbench.untrusted import LONGEST_LINE, printable, shortened

_FOLDER = Path(__file__).parent
PICTURE = "data:image/png;base64,"
_BUNDLE_NAMES = "window.vegaEmbed = vegaEmbed;"
_SHARED_SCRIPTS = ("vendor/sortable.js", "vendor/sortable.a11y.js", "shared.js")


def render(template: str, context: dict[str, Any], data: dict[str, Any], script: str, pictures: bool = False) -> str:
    """A whole page as text.

    context   what the template shows
    data      element id -> what the page's own script, a file of this folder, reads there
    pictures  whether it shows pictures, which are data: addresses inside it
    """
    jinja2 = needed("jinja2", "jinja2")
    markup = import_module("markupsafe").Markup
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_FOLDER), autoescape=True, trim_blocks=True, lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
        finalize=_harmless,
    )  # fmt: skip
    environment.filters |= {"seconds": text.seconds, "percent": text.percent, "times": text.times,
                            "significant": text.significant, "interval": text.interval, "error": text.error,
                            "shape": text.shape, "tint": text.tint}  # fmt: skip
    scripts = [_bundle(), *(_inline(_file(name), name) for name in (*_SHARED_SCRIPTS, script))]
    style = _file("style.css")
    return environment.get_template(template).render(
        context, data=data, policy=content_security_policy(scripts, style, pictures), style=markup(style),
        scripts=[markup(s) for s in scripts], json=lambda value: markup(json_text(value)),
    )  # fmt: skip


def _harmless(value: Any) -> Any:
    """Text as a page shows it: printable, and no longer than a line unless it is a picture."""
    if not isinstance(value, str) or hasattr(value, "__html__"):
        return value
    return printable(value if value.startswith(PICTURE) else shortened(value, LONGEST_LINE))


def json_text(value: Any) -> str:
    """JSON that cannot end a script element or a line of JavaScript, whatever its strings hold."""
    raw = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    for character in "<>&\u2028\u2029":
        raw = raw.replace(character, f"\\u{ord(character):04x}")
    return raw


def content_security_policy(scripts: list[str], style: str, pictures: bool = False) -> str:
    """Nothing but these scripts, this style, and pictures inside the page: no network, no eval, no other code."""
    hashes = " ".join(_hash(script) for script in scripts)
    allowed = f"script-src {hashes}; style-src {_hash(style)}" + ("; img-src data:" if pictures else "")
    return f"default-src 'none'; {allowed}; base-uri 'none'; form-action 'none'"


def _hash(content: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()}'"


@cache
def _bundle() -> str:
    """Vega, Vega-Lite and Vega-Embed as one script of about 0.9 MB; two seconds to make, so kept on disk."""
    vl_convert = needed("vl_convert", "vl-convert-python")
    path = cache_folder("vega") / f"{vl_convert.__version__}-{hashlib.sha256(_BUNDLE_NAMES.encode()).hexdigest()}.js"
    try:
        script = path.read_bytes().decode()
    except (OSError, UnicodeDecodeError):
        script = vl_convert.javascript_bundle(_BUNDLE_NAMES)
        with suppress(OutputError):  # not kept, then
            make_folder(path.parent)
            write_atomically(path, script.encode())
    return _inline(script, "the chart library")


def _inline(script: str, name: str) -> str:
    # Either would end or change the script element it stands in.
    assert "</script" not in script.lower() and "<!--" not in script, name
    return script.replace("\r\n", "\n")


def _file(name: str) -> str:
    return (_FOLDER / name).read_text("utf-8")


def needed(module: str, package: str) -> ModuleType:
    try:
        return import_module(module)
    except ImportError:
        raise InputError(
            f"the page needs {package}, which is not installed: `pip install {package}`, or copy run.json to a "
            "machine that has it and render it there, a report with `convbench report run.json`"
        ) from None
