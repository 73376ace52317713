# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
__all__: list[str] = []
