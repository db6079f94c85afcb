"""A site's films: read with a model package, as they are and changed on purpose."""
