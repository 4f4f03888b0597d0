"""From files to batches: the image gate, preprocessing, sources, augmentation and the loaders."""
