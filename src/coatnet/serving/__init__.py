"""A classifier behind HTTP: admission, a bounded queue, a worker process, a page."""
