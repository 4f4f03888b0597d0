"""What a classifier is worth on a set of images."""
