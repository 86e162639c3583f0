"""The command lines of the tools: arguments in, one call of the package, text out."""
