"""plotly.js, the library that draws in the page: asked for before anything is measured, for who waited a quarter of an hour
is not to learn then that it is not installed.
"""

from __future__ import annotations

from kinfolk.errors import NotFound


def script() -> str:
    """Its source. Raises NotFound where plotly is not installed."""
    try:
        from plotly.offline import get_plotlyjs
    except ImportError as error:
        raise NotFound(
            "the report needs plotly, which is not installed",
            why=str(error),
            remedy="pip install kinfolk[report]; the results can be kept with --export-json",
        ) from None
    return str(get_plotlyjs())
