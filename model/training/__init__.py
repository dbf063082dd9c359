"""Hold the parts of `python -m model.train`: options, losses, one step, resumable state, the loop over epochs."""
