"""The network: configuration, blocks, family, weights and size."""
