"""One-file HTML reports and plots from plain numbers; imports no other room."""
