"""Pages: one HTML shell for all that is shown in a browser."""
