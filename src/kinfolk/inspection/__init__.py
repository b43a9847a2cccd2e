"""Inspection: what is there on this host, and what is wrong with it.

procfs         what the kernel says about a process, typed
process_info   one process of a snapshot
adoption       orphans: who was adopted by whom, and how that is known
tree           the snapshot of all: `process_tree`
reaper         what the process that has to call wait does instead
freezer        control groups that stand still
cures          what to type against a zombie
diagnosis      why a zombie is still there: `diagnose_zombies`
"""
