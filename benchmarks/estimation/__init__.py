"""What `estimate.py` measures: models of real sizes, and one adapter per tool."""
