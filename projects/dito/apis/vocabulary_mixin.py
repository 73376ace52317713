# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Names of calls as classes of a detector."""

from collections.abc import Iterator, Mapping, Sequence, Set
from pathlib import Path
from threading import RLock
from typing import Any

from dito.converters.official.vocabulary import FINGERPRINT
from dito.models.text import Vocabulary
from dito.models.text.name_checks import trained_names, unseen_names
from dito.models.text.name_files import as_file, parse_names

from .model_file import templates_of

Names = str | Path | Sequence[str] | Vocabulary
# Lists of names whose embeddings are remembered.
_MOST_LISTS = 256


class VocabularyMixin:
    """The names that an inferencer looks for, and their embeddings.

    Names are embedded once. ``train_meta`` is the ``dataset_meta`` of the
    training, ``model`` the detector, ``cfg`` its config, ``_known`` the
    published vocabulary.
    """

    model: Any
    cfg: Any
    _known: Vocabulary | None = None
    train_meta: dict[str, Any]

    def _init_names(
        self, negative_names: Names | None, vocabulary: Names | None
    ) -> None:
        """Set what there is from the beginning."""
        self._made: dict[tuple[str, ...], Vocabulary] = {}
        self._lock = RLock()
        self._asked: Vocabulary | None = None
        self._negatives: Vocabulary | None = None
        if negative_names is not None:
            self._negatives = self._resolve(
                self._base_names()
                if negative_names == 'trained'
                else negative_names
            )
        if vocabulary is not None:
            self.set_vocabulary(vocabulary)

    @property
    def vocabulary(self) -> Vocabulary | None:
        """Classes that are looked for, None before any were given."""
        return self._asked

    def set_vocabulary(self, names: Names) -> Vocabulary:
        """Look for these names from now on.

        Args:
            names: As ``vocabulary`` of the class.

        Returns:
            Vocabulary: The classes with their embeddings.

        Raises:
            ValueError: If names are blank or duplicates, or embeddings were
                made by another text tower.
        """
        vocabulary = self._resolve(names)
        self.model.set_vocabulary(self._with_negatives(vocabulary))
        self._asked = vocabulary
        return vocabulary

    def _with_negatives(self, vocabulary: Vocabulary) -> Vocabulary:
        """What the detector gets; labels of ``vocabulary`` stay."""
        if self._negatives is None:
            return vocabulary
        return vocabulary.join(self._negatives)

    def _resolve(self, names: Names) -> Vocabulary:
        if isinstance(names, Vocabulary):
            return names
        path = as_file(names)
        if path is not None and path.suffix.lower() == '.safetensors':
            return Vocabulary.load(path)
        key = parse_names(names)
        with self._lock:  # The tower and its caches are shared by threads.
            found = self._made.get(key)
            if found is None:
                if len(self._made) >= _MOST_LISTS:
                    self._made.clear()
                found = self._made[key] = self._embed(key)
            return found

    def _resolve_each(
        self, vocabularies: Sequence[Names] | None, count: int
    ) -> list[Vocabulary | None]:
        """Classes of each image; None where it has none of its own."""
        if vocabularies is None:
            return [None] * count
        if isinstance(vocabularies, Iterator):
            vocabularies = list(vocabularies)
        # A map or a set has an order of its own, or none.
        if (
            isinstance(vocabularies, (str, Path, Vocabulary, Mapping, Set))
            or len(vocabularies) != count
        ):
            raise ValueError(
                f'vocabularies has one list of names for each of the {count} '
                'images, in their order; names for all of them go into '
                'vocabulary.'
            )
        return [
            None if names is None else self._resolve(names)
            for names in vocabularies
        ]

    def _embed(self, names: tuple[str, ...]) -> Vocabulary:
        """Embed names with the detector's tower; unseen ones are novel."""
        tower = self.model.text_encoder
        if tower is None:
            return self._look_up(names)
        return Vocabulary.from_names(
            names,
            tower,
            templates_of(self.cfg),
            novel=unseen_names(names, self.train_meta),
        )

    def _look_up(self, names: tuple[str, ...]) -> Vocabulary:
        """Find names in the published vocabulary."""
        known = self._known
        if known is None:
            raise ValueError(
                'This detector has no text tower to embed names with; give a '
                'vocabulary file (dito build-text-embeddings).'
            )
        try:
            return known.find(names)
        except ValueError as error:
            tool = (
                'dito official-text-embeddings, see docs/official_weights.md'
                if known.fingerprint == FINGERPRINT
                else 'dito build-text-embeddings'
            )
            raise ValueError(
                f'{error} This detector has no text tower; a vocabulary file '
                f'of other names is made by {tool}.'
            ) from None

    def _base_names(self) -> list[str]:
        """Base classes of the training, as negative names."""
        names = trained_names(self.train_meta)
        if not names:
            raise ValueError(
                "negative_names='trained' needs a checkpoint that says what "
                'it was trained on, and this one does not; give the names.'
            )
        return names

    def _classes(self, names: Names | None) -> Vocabulary:
        """Classes of one call; nothing of it stays."""
        if names is not None:
            return self._resolve(names)
        if self._asked is not None:
            return self._asked
        names = self.train_meta.get('classes')
        if not names:
            raise ValueError(
                "Name what to look for: vocabulary=['red umbrella', 'anchor']."
            )
        return self._resolve(list(names))
