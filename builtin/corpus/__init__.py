"""The demonstration model's training text, generated from word lists, templates and arithmetic."""
