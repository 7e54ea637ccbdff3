"""Files, locks and checkpoints: whole or absent, and trusted once they passed validate.py."""
