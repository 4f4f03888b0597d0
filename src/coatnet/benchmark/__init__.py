"""How fast a network runs here, beside timm's of the same name and the machine's own ceilings."""
