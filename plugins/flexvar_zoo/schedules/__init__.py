"""Step schedules of other kinds."""
