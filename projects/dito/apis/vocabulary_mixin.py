# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Names of calls as classes of a detector."""

from collections.abc import Iterator, Mapping, Sequence, Set
from pathlib import Path
from threading import RLock
from typing import Any

import torch

from dito.converters.official.vocabulary import FINGERPRINT
from dito.models.text import Vocabulary
from dito.models.text.name_checks import (
    check_names,
    name_key,
    trained_names,
    unseen_names,
)
from dito.models.text.name_files import COMMON, as_file, parse_names

from .examples import Frame, check_examples, embed_examples, make_frame
from .model_file import templates_of
from .results import OBJECTS, Query

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
    _frame_names: Vocabulary

    def _init_names(
        self, negative_names: Names | None, vocabulary: Names | None
    ) -> None:
        """Set what there is from the beginning."""
        self._made: dict[tuple[str, ...], Vocabulary] = {}
        self._lock = RLock()
        self._asked: Vocabulary | None = None
        self._frame: Frame | None = None
        self._negatives: Vocabulary | None = None
        self._negatives = self._negatives_of(negative_names)
        if vocabulary is not None:
            self.set_vocabulary(vocabulary)

    @property
    def vocabulary(self) -> Vocabulary | None:
        """Classes that are looked for, None before any were given."""
        return self._asked

    @property
    def negatives(self) -> Vocabulary | None:
        """Negative names of all calls, None without any."""
        return self._negatives

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
        self.model.set_vocabulary(
            vocabulary
            if self._negatives is None
            else vocabulary.join(self._negatives)
        )
        self._asked = vocabulary
        return vocabulary

    def embed(
        self,
        names: Names | None = None,
        *,
        examples: Mapping[str, Any] | None = None,
        groups: Mapping[str, Sequence[str]] | None = None,
    ) -> Vocabulary:
        """Embed names and pictures of things, to look for them later.

        Args:
            names (optional): Names, in any form of a call.
            examples (dict, optional): Pictures by name: of each one example
                or a list, whose mean counts. An example is a picture of the
                thing alone, or ``(picture, box)`` or ``(scene, box)`` with a
                box x1, y1, x2, y2 in pixels. What has a name among ``names``
                gets the mean of both.
            groups (dict, optional): Names by the label that they share, see
                :meth:`Vocabulary.group`; those that are not among ``names``
                are added.

        Returns:
            Vocabulary: For any call, ``Scene.find``, negative names, and
            ``save``.

        Raises:
            FileNotFoundError: If a picture does not exist.
            ValueError: If there is neither name nor example, one cannot be
                used, or no names are known to compare examples with.
        """
        given = check_examples(examples or {})
        if groups and not isinstance(groups, Mapping):
            raise ValueError(
                "Groups are given by label: {'toy': ['kite', 'wheel']}, got "
                f'{type(groups).__name__}.'
            )
        found = None if names is None else self._resolve(names)
        own = set(map(name_key, found.names if found else ()))
        more = [
            name
            for members in (groups or {}).values()
            for name in check_names(members)
            if name_key(name) not in own | set(map(name_key, given))
        ]
        if more:
            made = self._resolve(list(dict.fromkeys(more)))
            found = made if found is None else found.join(made)
        if given:
            found = self._add_examples(found, given)
        if found is None:
            raise ValueError(
                'There are no names and no examples to embed; give some.'
            )
        return found.group(groups) if groups else found

    def _add_examples(
        self, vocabulary: Vocabulary | None, examples: dict[str, list[Any]]
    ) -> Vocabulary:
        """Append classes of examples, or mix them into those of the name."""
        frame = self._example_frame()
        made = Vocabulary(
            check_names(list(examples)),
            torch.stack(
                [embed_examples(self, frame, e) for e in examples.values()]
            ),
            self._frame_names.background,
            torch.ones(len(examples), dtype=torch.bool),
            self._frame_names.fingerprint,
            examples=tuple(map(len, examples.values())),
        )
        if vocabulary is None:
            return made
        return vocabulary.mix(made)

    def _example_frame(self) -> Frame:
        """Where regions and texts lie, measured once."""
        with self._lock:
            if self._frame is None:
                names = trained_names(self.train_meta)
                known = self._resolve(names) if names else self._known
                if known is None or len(known) < 2:
                    raise ValueError(
                        'Examples need a checkpoint that says what it was '
                        'trained on, and this one does not; give names.'
                    )
                self._frame = make_frame(self, known.embeddings)
                self._frame_names = known
            return self._frame

    def query(
        self, vocabulary: Names | None = None, negatives: Names | None = None
    ) -> Query:
        """What a call with these names looks for; ValueError without any.

        Names and negatives are those of the detector by default.
        """
        return Query.of(
            self._classes(vocabulary), self._negatives_of(negatives)
        )

    def _queries(
        self,
        vocabulary: Names | None,
        vocabularies: Sequence[Names] | None,
        negatives: Names | None,
        objects: bool,
        count: int,
    ) -> list[Query]:
        """Names for each image; mistakes are reported before any work."""
        if objects:
            if (vocabulary, vocabularies, negatives) != (None, None, None):
                raise ValueError(
                    'objects=True looks for objects without names; leave it '
                    'out, or the names.'
                )
            return [OBJECTS] * count
        own = self._resolve_each(vocabularies, count)
        others = self._negatives_of(negatives)
        shared = None
        if vocabulary is not None or None in own:
            shared = Query.of(self._classes(vocabulary), others)
        return [
            shared
            if classes is None and shared is not None
            else Query.of(classes, others)
            for classes in own
        ]

    def _negatives_of(self, names: Names | None) -> Vocabulary | None:
        """Negative names of one call, in any form that the class takes."""
        if names is None:
            return self._negatives
        return self._resolve(
            self._base_names()
            if isinstance(names, str) and names == 'trained'
            else names
        )

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
        """Find names in the published vocabulary, or common ones it has."""
        known = self._known
        if known is None:
            raise ValueError(
                'This detector has no text tower to embed names with; give a '
                'vocabulary file (dito build-text-embeddings).'
            )
        if names == parse_names(COMMON):
            names = tuple(known.known(names))
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
