"""Step schedules: the list of grids that leads to a size."""
