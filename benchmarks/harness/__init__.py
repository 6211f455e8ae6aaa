"""What stands behind every suite: cases in processes of their own, rows, parity, the report."""
