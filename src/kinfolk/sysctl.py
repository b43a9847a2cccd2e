"""The kernel's limits (sysctl(8), proc_sys(5)). Read when they are needed, never remembered: an administrator may change them."""

from __future__ import annotations


def kernel_number(name: str) -> int:
    """The value of a sysctl such as ``kernel.msgmax``."""
    return kernel_numbers(name)[0]


def kernel_numbers(name: str) -> list[int]:
    """The values of one that has several, such as ``kernel.sem``."""
    with open("/proc/sys/" + name.replace(".", "/"), "rb") as file:
        return [int(word) for word in file.read().split()]
