"""Provide names of classes, labels and files that are text, and that careless code takes for something else."""

NAMES = (
    "[red]",
    "[/] :smile:",
    "<script>alert('x')</script>",
    'a & b "c"',
    "a/b",
    "..",
    "$x_1$, %s {name}",
    "🫀 cœur",
    "مرحبا \u202e مقلوب",
    "x" * 300,
)
CLASSES, LABELS = ("background", *NAMES), NAMES
FILE = "[red] <b> \n\udcff.png"  # what Linux lets a file be called, with a byte that is no UTF-8
