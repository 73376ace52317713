# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""What the command ``dito`` does: a module a tool, and their options."""
