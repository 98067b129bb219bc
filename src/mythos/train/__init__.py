"""Making weights: `build_tier` fetches, converts and registers a tier."""
