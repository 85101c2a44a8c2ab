"""Metrics as pure functions of arrays, games and classifiers; nothing here knows of training or files."""
