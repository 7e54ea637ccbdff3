"""The Domain Transfer Network (Taigman et al. 2017) and its encoder f."""
