"""Figures as files, drawn without a display. They need the extra ``plot``."""

from pathlib import Path
from typing import Any

from constropt.checks import MissingExtra
from constropt.files import replacing


def require_matplotlib() -> None:
    """Raise :class:`MissingExtra` if figures cannot be drawn: better before a long run than after it."""
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        raise MissingExtra("figures need matplotlib: pip install constropt[plot]") from None


def figure_of(width: float, height: float) -> Any:
    """A figure drawn by Agg: no window, no display, and no global state as pyplot has."""
    require_matplotlib()
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def save_figure(figure: Any, path: str | Path) -> None:
    with replacing(path) as unfinished:
        figure.savefig(unfinished, dpi=120)
