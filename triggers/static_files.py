"""The style sheets of the pages: known files under names that change with what they hold, so that they can be kept."""

import hashlib
from pathlib import Path

import azure.functions as func

_FOLDER = Path(__file__).parent / "static"
_A_YEAR = "public, max-age=31536000, immutable"


def _load(path: str, name: str) -> tuple[str, bytes]:
    content = (_FOLDER / path).read_bytes()
    return f"{name}-{hashlib.sha256(content).hexdigest()[:12]}.css", content


_SHEETS = {
    "simple": _load("simple.css-2.3.7/simple.min.css", "simple"),
    "countersign": _load("countersign.css", "countersign"),
}
_FILES = dict(_SHEETS.values())


def name_of(sheet: str) -> str:
    """Return the name under which a style sheet is served: ``simple`` or ``countersign``."""
    return _SHEETS[sheet][0]


async def get_static_file(req: func.HttpRequest) -> func.HttpResponse:
    """``GET /static/{file}``: one of the known files, else 404."""
    content = _FILES.get(req.route_params.get("file", ""))
    always = {"X-Content-Type-Options": "nosniff"}
    if content is None:
        return func.HttpResponse("Not Found", status_code=404, headers=always)
    return func.HttpResponse(content, mimetype="text/css", charset="utf-8", headers=always | {"Cache-Control": _A_YEAR})
