"""Hold the parts of `python -m model.ablate`: the arms, their epochs under one budget, and the table of results."""
