"""Published weights: their catalog, downloads and verified loading."""
