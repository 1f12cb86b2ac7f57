"""What `language.py` measures of curvature: a language model, an adapter per tool."""
