"""Plain ways to do what flexvar does, which the suites hold it against."""
