"""The parts of `python -m model.ablate`: the arms, their runs under one budget, and the table of what came out."""
