"""The command line. `main.py` is the table of commands; a command's module is imported when it runs."""
