"""What image files are made of, read before any pixel is decoded."""
