"""The typed contract of the compiled module `kinfolk._native` (sources in native/)."""
