"""Networks in other runtimes' forms, each compared with the original on images before anyone gets it."""
