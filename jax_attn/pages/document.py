"""A page as one file: its style and its script are inside of it, and nothing is fetched."""

from html import escape

from jax_attn.pages.style import STYLE

# A browser then refuses whatever a page would fetch.
POLICY = (
    "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data:; "
    "base-uri 'none'; form-action 'none'"
)


def document(title: str, body: str, *, style: str = "", script: str = "") -> str:
    """Return the HTML.

    Args:
        title: text.
        body: HTML, inside of `<main>`.
        style: CSS beside the common one.
        script: JavaScript that runs when the body is there.
    """
    policy = f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">\n'
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'{policy}<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{STYLE}{style}</style>\n"
        f"</head>\n<body>\n<main>\n{body}\n</main>\n"
        + (f"<script>{script}</script>\n" if script else "")
        + "</body>\n</html>\n"
    )
