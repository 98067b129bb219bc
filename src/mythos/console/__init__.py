"""The web console: pages made on the server, for people with a browser.

A page shows what the gate lets its reader see, by the same functions as the command line and the HTTP
interfaces; it holds no rights of its own and never asks for a private key. Public: `create_console_app`, on a
listener of its own. No torch.
"""
