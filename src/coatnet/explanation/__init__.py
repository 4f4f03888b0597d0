"""What a classifier looks at: heat maps from gradients, and attention taken apart."""
