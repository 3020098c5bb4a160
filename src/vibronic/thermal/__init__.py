"""A property at finite temperature with an error bar, from as few labels as possible."""
