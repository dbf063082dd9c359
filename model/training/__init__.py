"""The parts of `python -m model.train`: losses, resumable state and the loop over epochs."""
