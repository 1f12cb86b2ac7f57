"""The other engine: plain layers by curvlinops, proved and watched by us."""
