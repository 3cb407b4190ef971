"""How fast groat is, beside what the machine could do and beside what a user would pick instead; see README.md."""
