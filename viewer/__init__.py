"""Pages: grids and curves of runs, and app.py's."""
