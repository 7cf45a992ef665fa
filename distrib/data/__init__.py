"""Data at rest (source), packed (beton) and flowing (loader)."""
