"""L3: the composer, which joins the drivers to a pod's life."""
