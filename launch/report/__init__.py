"""Tables and figures of measured results beside the published ones."""
