"""Text in and out of tokens: tokenizer, chat templates, files fetched from packages. No torch here."""
