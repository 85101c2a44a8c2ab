"""Draws Shapley values as heatmaps and writes the report page of one or two evaluated models."""
