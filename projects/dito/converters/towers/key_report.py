# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Account of where every weight of a source went."""

from collections.abc import Callable, Mapping

from torch import Tensor


class KeyReport:
    """Takes weights out of a source, one by one, and remembers it.

    Args:
        source (dict[str, Tensor]): Weights by the source's names.

    Attributes:
        state (dict[str, Tensor]): Weights by our names, float32.
        lines (dict[str, str]): For each of our names, where it is from.
        left_out (dict[str, str]): For each name of the source that has no
            place here, why.
        resampled (dict[str, str]): For each of our names that was resized,
            from what to what.
    """

    def __init__(self, source: Mapping[str, Tensor]) -> None:
        self._source = dict(source)
        self._used: dict[str, None] = {}
        self.state: dict[str, Tensor] = {}
        self.lines: dict[str, str] = {}
        self.left_out: dict[str, str] = {}
        self.resampled: dict[str, str] = {}

    def __contains__(self, name: str) -> bool:
        return name in self._source

    def read(self, name: str) -> Tensor:
        """A weight of the source as float32; it counts as used.

        Args:
            name (str): Name in the source.

        Returns:
            Tensor: The weight.

        Raises:
            ValueError: If the source has none of this name.
        """
        if name not in self._source:
            raise ValueError(
                f'The weights have no {name!r}, which a tower of this kind '
                'must have; give the file that belongs to the model.'
            )
        self._used[name] = None
        return self._source[name].detach().float()

    def take(
        self,
        name: str,
        ours: str,
        change: Callable[[Tensor], Tensor] | None = None,
        how: str = '',
    ) -> None:
        """Take a weight over.

        Args:
            name (str): Name in the source.
            ours (str): Name here.
            change (callable, optional): Applied to the weight.
            how (str): What ``change`` does, in a word or two.
        """
        value = self.read(name)
        self.put(
            ours,
            value if change is None else change(value),
            f'{name}{f" ({how})" if how else ""}',
        )

    def put(self, ours: str, value: Tensor, origin: str) -> None:
        """Set a weight made of several of the source's, or of none."""
        self.state[ours] = value.contiguous()
        self.lines[ours] = origin

    def leave(self, name: str, why: str) -> None:
        """Leave a weight out, knowingly; nothing if there is none."""
        if name in self._source:
            self._used[name] = None
            self.left_out[name] = why

    def unmatched(self) -> list[str]:
        """Names of the source that were neither taken nor left out."""
        return [name for name in self._source if name not in self._used]

    def check(self) -> None:
        """Refuse a source of which something was not understood.

        Raises:
            ValueError: With the names.
        """
        names = self.unmatched()
        if names:
            raise ValueError(
                f'{len(names)} of {len(self._source)} weights of the source '
                f'have no place in a DITOViT or text tower: '
                f'{", ".join(names[:8])}{" ..." if len(names) > 8 else ""}; '
                'the model is of a kind that cannot be converted.'
            )

    def text(self) -> str:
        """One line a weight, and a summary."""
        rows = [
            (
                'resampled' if ours in self.resampled else 'taken',
                ours,
                self._describe(ours),
            )
            for ours in self.state
        ]
        rows += [
            ('left out', name, why) for name, why in self.left_out.items()
        ]
        wide = max((len(name) for _, name, _ in rows), default=0)
        lines = [
            f'{kind:<9}  {name:<{wide}}  {note}' for kind, name, note in rows
        ]
        lines.append(
            f'{len(self.state)} weights taken, {len(self.resampled)} of them '
            f'resampled; {len(self.left_out)} of the source left out.'
        )
        return '\n'.join(lines)

    def _describe(self, ours: str) -> str:
        shape = tuple(self.state[ours].shape)
        change = self.resampled.get(ours)
        return f'<- {self.lines[ours]}  {change or shape}'
