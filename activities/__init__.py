"""Activities: one effect each, safe to run twice."""
