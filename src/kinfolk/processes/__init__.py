"""Processes: starting them, seeing them end, ending them. Import from `kinfolk`, not from here.

launch        a start as plain data            custody, direct   who reaps a child
options       what a user asks for, checked    process, wait     what a user holds
"""
