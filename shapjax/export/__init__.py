"""Writes and reads exported models: plain files for other programs, and for `shapjax.load`."""
