"""One network, several engines: preprocessed images in, logits out."""
