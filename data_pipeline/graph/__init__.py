"""Define the DALI graphs of training and serving, and the reference that they are tested against."""
