"""The figures that evaluate.py reports."""
