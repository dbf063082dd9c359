"""Generate dermoscopy and OCT images with masks and labels, the same on every machine for a seed."""
