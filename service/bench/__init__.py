"""`secateur-serve bench`: what a request costs in the raw session, in the engine, over HTTP, and in the servers one would use instead."""
