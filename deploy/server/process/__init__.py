"""Start and end tritonserver and its workers, and clean up what they leave behind."""
