"""Describe a finished build: records for programs, a table for the terminal, a page for people."""
