"""Policy packs that come with the product, as TOML."""
