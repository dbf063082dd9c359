"""Answer clients over HTTP in front of tritonserver: check, name and forward each request."""
