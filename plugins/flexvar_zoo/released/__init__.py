"""Released files of other papers."""
