"""Where images come from: sources, the training and evaluation pipelines, single image files."""
