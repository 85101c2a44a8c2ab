"""Images: sources of them, the training and evaluation pipelines, augmentation, single image files."""
