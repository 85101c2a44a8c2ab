"""Metrics as pure functions of arrays and of games; nothing here knows of models, training or files."""
