"""The registry's tables, one step a module. A released step isn't changed any more: a new one follows it."""
