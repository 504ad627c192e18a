"""What one would use instead: servers that take the same JSON on the same artifact, each set up as its documentation does, or tuned."""
