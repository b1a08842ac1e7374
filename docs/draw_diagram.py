"""Draws how the model works: docs/diagram.svg for light pages and docs/diagram_dark.svg for dark ones.

python docs/draw_diagram.py
"""

from dataclasses import dataclass
from pathlib import Path
from xml.sax.saxutils import escape

FOLDER = Path(__file__).parent
WIDTH, HEIGHT = 1000, 430
BOX_HEIGHT = 66
TITLE = "MMJepa: an image, a question and a statement become an answer and a probability"


@dataclass(frozen=True)
class Box:
    """A box of the diagram.

    Args:
        x, y, width, height: its place in pixels, from the top left.
        title, note: its two lines of text.
        kind: of its colours: "input", "trained", "frozen", "tensor" or "loss".
    """

    x: int
    y: int
    width: int
    title: str
    note: str
    kind: str
    height: int = BOX_HEIGHT

    @property
    def middle(self) -> int:
        return self.y + self.height // 2


BOXES = {
    "image": Box(10, 30, 140, "image", "(I, 3, H, W)", "input"),
    "question": Box(10, 180, 140, "question", "where is the gland?", "input"),
    "statement": Box(10, 330, 140, "statement", "gland: upper left", "input"),
    "image encoder": Box(200, 30, 150, "image encoder", "DINOv2, trained", "trained"),
    "text encoder": Box(200, 180, 150, "text encoder", "BART, frozen", "frozen", 216),
    "visual tokens": Box(405, 30, 160, "M visual tokens", "one per cell of it", "tensor"),
    "states": Box(405, 180, 160, "question tokens", "(B, L, D)", "tensor"),
    "target": Box(405, 330, 160, "statement vector", "whitened (B, D)", "tensor"),
    "decoder": Box(625, 105, 150, "decoder", "BART, trained", "trained"),
    "score": Box(625, 330, 150, "statement score", "it reads the tokens", "trained"),
    "answer": Box(830, 105, 160, "answer", "loss: cross-entropy", "loss"),
    "truth": Box(830, 330, 160, "true or false", "loss: contrast + truth", "loss"),
}
ARROWS = [
    ("image", "image encoder"),
    ("question", "text encoder"),
    ("statement", "text encoder"),
    ("image encoder", "visual tokens"),
    ("text encoder", "states"),
    ("text encoder", "target"),
    ("visual tokens", "decoder"),
    ("states", "decoder"),
    ("visual tokens", "score"),
    ("target", "score"),
    ("decoder", "answer"),
    ("score", "truth"),
]
# Fill and edge of each kind of box, then text, note and arrows.
LIGHT = {
    "input": ("#f6f8fa", "#8c959f"),
    "trained": ("#ddf4ff", "#0969da"),
    "frozen": ("#eaeef2", "#57606a"),
    "tensor": ("#fff8c5", "#9a6700"),
    "loss": ("#dafbe1", "#1a7f37"),
    "text": "#1f2328",
    "note": "#424a53",
    "arrow": "#57606a",
}
DARK = {
    "input": ("#161b22", "#7d8590"),
    "trained": ("#0c2d4d", "#4493f8"),
    "frozen": ("#262c36", "#9198a1"),
    "tensor": ("#3a2d05", "#d29922"),
    "loss": ("#0f2f1a", "#3fb950"),
    "text": "#f0f6fc",
    "note": "#c9d1d9",
    "arrow": "#9198a1",
}


def draw_box(box: Box, colours: dict) -> str:
    """A box with its two lines of text. What is frozen has a broken edge."""
    fill, edge = colours[box.kind]
    dashes = ' stroke-dasharray="6 4"' if box.kind == "frozen" else ""
    x, y = box.x + box.width / 2, box.middle
    return (
        f'<rect x="{box.x}" y="{box.y}" width="{box.width}" height="{box.height}" rx="9" fill="{fill}" '
        f'stroke="{edge}" stroke-width="1.6"{dashes}/>'
        f'<text x="{x}" y="{y - 5}" font-size="15" font-weight="600" fill="{colours["text"]}">'
        f"{escape(box.title)}</text>"
        f'<text x="{x}" y="{y + 16}" font-size="12.5" fill="{colours["note"]}">{escape(box.note)}</text>'
    )


def draw_arrow(start: Box, end: Box, colours: dict) -> str:
    """A curve from the right edge of a box to the left edge of another; straight where both are as high."""
    # Beside a tall box the arrow stays at the height of the other one.
    y1 = end.middle if start.height > end.height else start.middle
    y2 = start.middle if end.height > start.height else end.middle
    x1, x2 = start.x + start.width, end.x - 7
    bend = (x1 + x2) / 2
    return (
        f'<path d="M{x1},{y1} C{bend},{y1} {bend},{y2} {x2},{y2}" fill="none" stroke="{colours["arrow"]}" '
        'stroke-width="1.8" marker-end="url(#head)"/>'
    )


def diagram(colours: dict) -> str:
    """The diagram as SVG."""
    arrows = [draw_arrow(BOXES[start], BOXES[end], colours) for start, end in ARROWS]
    boxes = [draw_box(box, colours) for box in BOXES.values()]
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" '
            'font-family="system-ui, sans-serif" text-anchor="middle">',
            f"<title>{escape(TITLE)}</title>",
            '<defs><marker id="head" viewBox="0 0 8 8" refX="1" refY="4" markerWidth="5" markerHeight="5" '
            f'orient="auto"><path d="M0,0 L8,4 L0,8 z" fill="{colours["arrow"]}"/></marker></defs>',
            *arrows,
            *boxes,
            "</svg>\n",
        ]
    )


def main() -> None:
    """Writes both files."""
    (FOLDER / "diagram.svg").write_text(diagram(LIGHT))
    (FOLDER / "diagram_dark.svg").write_text(diagram(DARK))


if __name__ == "__main__":
    main()
