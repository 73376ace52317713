# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Text towers: what all have, and that of CLIP."""

import json
import logging
from abc import abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from mmdet.registry import MODELS
from mmengine.logging import print_log
from mmengine.model import BaseModule
from torch import Tensor

from dito.utils.checkpoint import hash_of

from ..losses.contrastive_ops import normalize
from .name_checks import say_unread
from .text_tower import build_text_tower, is_plain
from .tokenizers import (
    CLEANINGS,
    ForeignTokenizer,
    PieceTokenizer,
    TokenIds,
    bpe_tokenizer,
    cleaning_numbers,
    collect_token_ids,
    resolve_token_ids,
)


class BaseTextEncoder(BaseModule):
    """Text tower that needs only a way to tokenize and to embed.

    Args:
        embed_dims (int): Channels D of an embedding.
        init_cfg (dict, optional): Initialization config. Defaults to None.
    """

    def __init__(self, embed_dims: int, init_cfg: Any = None) -> None:
        super().__init__(init_cfg)
        self.embed_dims = embed_dims
        self._hashed: tuple[Any, str] = (None, '')
        self.register_load_state_dict_pre_hook(_forget_hash)

    @abstractmethod
    def tokenize(self, texts: Sequence[str]) -> Tensor:
        """Turn N texts into tokens, int64 (N, L) on the CPU."""

    @abstractmethod
    def forward(self, tokens: Tensor) -> Tensor:
        """Embed tokens, (N, D), not normalised."""

    def shorten(self, tokens: Tensor) -> Tensor:
        """Cut tokens on the CPU (N, L) where the tower needs fewer."""
        return tokens

    def order(self, tokens: Tensor) -> Tensor:
        """Choose the order that texts are embedded in, int64 (N, )."""
        return torch.arange(len(tokens))

    def facts(self) -> list[Any]:
        """What decides an embedding beside the weights, as json holds it."""
        return [type(self).__name__]

    @torch.no_grad()
    def encode(self, texts: Sequence[str], batch_size: int = 256) -> Tensor:
        """Embed texts without gradient, in evaluation mode.

        Unit vectors, float32, (N, embed_dims), on the tower's device.
        """
        tokens = self.tokenize(texts)
        weight = next(self.parameters(), None)
        device = tokens.device if weight is None else weight.device
        result = torch.empty(len(texts), self.embed_dims, device=device)
        training = self.training
        self.eval()
        try:
            with torch.autocast(device.type, enabled=False):
                for index in self.order(tokens).split(batch_size):
                    result[index.to(device)] = normalize(
                        self(self.shorten(tokens[index]).to(device))
                    ).float()
        finally:
            self.train(training)
        return result

    def fingerprint(self) -> str:
        """Hex sha256 of what decides an embedding, :meth:`facts` and weights.

        Hashing takes about a second for a ViT-L tower. The result is kept
        while no parameter requires a gradient and every tensor is the same
        one, unwritten: ``load_state_dict``, ``.to()`` and operations in place
        make it anew, also under ``no_grad``. Only a write around torch's
        version counters, through ``.data``, goes unseen.
        """
        state = self._weights_key()
        if state is None or state != self._hashed[0]:
            self._hashed = (state, self._hash())
        return self._hashed[1]

    def _weights_key(self) -> tuple[Any, ...] | None:
        """What changes with any tensor; None where that is unknown."""
        tensors = [*self.parameters(), *self.buffers()]
        # A tower in training is hashed each time: averaged weights, for
        # one, are swapped in through .data.
        if any(t.requires_grad or t.is_inference() for t in tensors):
            return None
        return (
            self._written_facts(),
            *((id(t), t.data_ptr(), t._version) for t in tensors),
        )

    def _written_facts(self) -> str:
        return json.dumps(self.facts(), sort_keys=True)

    def _apply(
        self, fn: Callable[[Tensor], Tensor], *args: Any
    ) -> 'BaseTextEncoder':
        # New memory may lie where freed memory was.
        self._hashed = (None, '')
        return super()._apply(fn, *args)

    def _hash(self) -> str:
        return hash_of(self._written_facts(), self.state_dict())


def _forget_hash(module: BaseTextEncoder, *_: Any) -> None:
    """Take a fingerprint anew after any loading."""
    module._hashed = (None, '')


_EMBEDDING = 'tower.token_embedding.weight'
_CLEANING = 'text_cleaning'


@MODELS.register_module()
class DITOTextEncoder(BaseTextEncoder):
    """CLIP's text transformer with its byte-pair tokenizer.

    The transformer is open_clip's; its parameters have the prefix
    ``tower.`` and open_clip's names. The embedding has the width of the
    image tower, which has no projection of its own.

    Sequences are cut to the longest text of a batch before they enter the
    transformer. This changes nothing, because attention is causal and the
    embedding is read at the end of the text, and costs a fraction: prompts
    have about 12 of 77 tokens.

    A tower for a narrow domain need not carry all 49,408 rows of the token
    embedding: ``token_ids`` names the kept ones. They are part of the state
    dict. Pieces outside are read as padding, with one warning.

    Towers unlike CLIP's (SigLIP: no causal mask, read at the last place, a
    vocabulary and tokenizer of its own) see all of the context. How their
    texts are cleaned is part of the state dict too (``text_cleaning``), so
    that it comes with the weights.

    Args:
        arch (str | dict): open_clip model name, whose text tower is taken
            ('ViT-L-16'), or dict(width, layers, heads[, mlp_ratio, act, ...]),
            see :func:`resolve_text_arch`.
        embed_dims (int): Channels of the embedding.
        context_length (int): Most tokens per text, start and end included;
            longer texts are cut and keep the end token. Defaults to 77.
        token_ids (None | int | list[int] | str | dict): Kept rows of the
            token embedding: None for all; ids, or a json or text file of
            ids; ``dict(texts_file=...)`` for the ids of a file of texts; a
            number of rows to be read from a checkpoint. Defaults to None.
        tokenizer (dict, optional): Tokenizer of a tower that does not use
            CLIP's, see :class:`ForeignTokenizer`. Defaults to None, CLIP's.
        freeze (bool): Keep the tower in evaluation mode and without
            gradients. Defaults to False.
        with_cp (bool): Checkpoint activations in training. Defaults to
            False.
        init_cfg (dict, optional): Initialization config. Defaults to None.
    """

    token_ids: Tensor
    text_cleaning: Tensor | None

    def __init__(
        self,
        arch: str | Mapping[str, Any],
        embed_dims: int,
        context_length: int = 77,
        token_ids: TokenIds = None,
        tokenizer: Mapping[str, Any] | None = None,
        freeze: bool = False,
        with_cp: bool = False,
        init_cfg: Any = None,
    ) -> None:
        super().__init__(embed_dims, init_cfg)
        kept = resolve_token_ids(token_ids)
        self.tower, self.arch = build_text_tower(
            arch,
            embed_dims,
            context_length,
            None if kept is None else len(kept),
        )
        self.foreign = (
            None
            if tokenizer is None
            else ForeignTokenizer(tokenizer, context_length)
        )
        self._check_table(kept)
        self.context_length = context_length
        self.freeze = freeze
        self.register_buffer('token_ids', kept)
        self.register_buffer(
            _CLEANING,
            None
            if self.foreign is None
            else torch.tensor(self.foreign.cleaning),
        )
        self.tower.set_grad_checkpointing(with_cp)
        self.register_load_state_dict_pre_hook(_adapt_before_load)
        self._pieces: tuple[Any, PieceTokenizer] | None = None
        self._cleaned: Any = None
        if freeze:
            self.requires_grad_(False)
            self.train(False)

    def _check_table(self, kept: Tensor | None) -> None:
        """Refuse rows of CLIP's tokenizer for a tower with another."""
        other = self.foreign is not None or 'vocab_size' in self.arch
        if kept is not None and other:
            raise ValueError(
                'token_ids name pieces of the tokenizer of CLIP, which this '
                'text tower does not use: leave token_ids out.'
            )

    def train(self, mode: bool = True) -> 'DITOTextEncoder':
        """Set the mode; a frozen tower stays in evaluation mode."""
        return super().train(mode and not self.freeze)

    @staticmethod
    def collect_token_ids(texts: Iterable[str]) -> list[int]:
        """Ids that some texts need, for ``token_ids``."""
        return collect_token_ids(texts)

    # ------------------------------------------------------------ tokens

    def caption_tokenizer(self) -> PieceTokenizer | ForeignTokenizer:
        """What tokenises for this tower, follows loaded weights.

        It works without the tower, in the workers of a loader. ValueError if
        the tower's tokenizer is not known.
        """
        if self.foreign is not None:
            return self._own_tokenizer()
        if 'vocab_size' in self.arch:
            raise ValueError(
                f'This text tower has {self.arch["vocab_size"]} pieces, so '
                'its tokenizer is not the one of CLIP: set tokenizer='
                'dict(path=FOLDER) in the config of the text encoder.'
            )
        kept = self.token_ids
        key = None if kept is None else (kept.data_ptr(), kept._version)
        if self._pieces is None or self._pieces[0] != key:
            ids = None if kept is None else kept.cpu().numpy()
            if ids is not None and ids[0] < 0:
                raise ValueError(
                    'The text encoder was built with a number of token_ids '
                    'only and no checkpoint was loaded; load one that holds '
                    'them, or give the ids.'
                )
            made = PieceTokenizer(ids, self.context_length)
            if self._pieces is not None:
                made.warned = self._pieces[1].warned
            self._pieces = (key, made)
        return self._pieces[1]

    def _own_tokenizer(self) -> ForeignTokenizer:
        """The tokenizer that is not CLIP's; follows loaded weights."""
        numbers = self.text_cleaning
        key = (numbers.data_ptr(), numbers._version)
        if self._cleaned != key:
            self.foreign.set_cleaning(numbers.tolist())
            self._cleaned = key
        return self.foreign

    def tokenize(self, texts: Sequence[str]) -> Tensor:
        """Turn texts into rows of the token embedding.

        int64 on the CPU, (N, context_length), padded with 0; the end of the
        text is the largest number of a row. Texts of many times the context
        are cut before anything is done with them (:func:`cut_text`).
        """
        if isinstance(texts, str):
            raise TypeError(
                f'tokenize takes a list of texts, got the text {texts!r}.'
            )
        return self.caption_tokenizer()(texts)

    def shorten(self, tokens: Tensor) -> Tensor:
        """Cut tokens to the longest text, where that changes nothing.

        They are on the CPU: of tokens on a device the host would have to wait
        for their length.
        """
        if not is_plain(self.arch):
            return tokens
        length = int(tokens.argmax(dim=-1).max()) + 1 if len(tokens) else 1
        # Few distinct lengths, so that compiled code is made a few times.
        return tokens[:, : -(-length // 8) * 8]

    def unknown_pieces(self, texts: Iterable[str]) -> list[str]:
        """Word pieces, sorted, that the tower has no embedding for."""
        if self.foreign is not None:
            return self._own_tokenizer().unknown_words(texts)
        if self.token_ids is None:
            return []
        return self.caption_tokenizer().unknown_pieces(texts)

    def warn_unread(
        self, names: Sequence[str], prompts: Sequence[str] = ()
    ) -> None:
        """Say which names have words that the tower has not learnt."""
        found = {n: self.unknown_pieces([n]) for n in names}
        unread = {n: pieces for n, pieces in found.items() if pieces}
        bare = [prompt.replace('{}', ' ') for prompt in prompts]
        reduced = self.foreign is None and self.token_ids is not None
        if reduced and (unread or not self.unknown_pieces(bare)):
            # All that was asked for is said here; what is left is ours, the
            # name of the background.
            self.caption_tokenizer().warned = True
        if unread:
            print_log(
                say_unread(len(names), unread),
                logger='current',
                level=logging.WARNING,
            )

    # -------------------------------------------------------- embeddings

    def forward(self, tokens: Tensor) -> Tensor:
        """Embed tokens (N, L), not normalised, (N, embed_dims).

        On the CPU they are cut, see :meth:`shorten`; others are taken as they
        are.
        """
        tower = self.tower
        device = tower.positional_embedding.device
        if not is_plain(self.arch):
            return tower(tokens.to(device))
        if tokens.device.type == 'cpu':
            tokens = self.shorten(tokens)
        tokens = tokens.to(device)
        end, length = tokens.argmax(dim=-1), tokens.shape[1]
        x = tower.token_embedding(tokens) + tower.positional_embedding[:length]
        mask = tower.attn_mask[:length, :length]
        x = tower.ln_final(tower.transformer(x, attn_mask=mask))
        x = x[torch.arange(len(x), device=device), end]
        return x @ tower.text_projection

    def order(self, tokens: Tensor) -> Tensor:
        """Put texts of one length together, so that batches are cut short."""
        return tokens.argmax(dim=-1).argsort(stable=True)

    def facts(self) -> list[Any]:
        """Architecture and context length."""
        return [self.arch, self.context_length]

    # ------------------------------------------------------------ loading

    def adapt_state_dict(
        self, state_dict: dict[str, Tensor], prefix: str = ''
    ) -> None:
        """Fit a checkpoint's token table to this tower's, in place.

        Rows are picked where the checkpoint's table holds all of the rows kept
        here. How texts are cleaned is the checkpoint's to say. ValueError if
        rows kept here are not in the checkpoint, or it cleans texts otherwise
        than the config says.
        """
        weight = state_dict.get(prefix + _EMBEDDING)
        if weight is None:
            return
        self._adapt_cleaning(state_dict, prefix + _CLEANING)
        source = state_dict.get(prefix + 'token_ids')
        if source is None and len(weight) == bpe_tokenizer().vocab_size:
            source = torch.arange(len(weight))
        if source is None:
            return
        if self.token_ids is None:
            if len(source) != bpe_tokenizer().vocab_size:
                raise ValueError(
                    f'The checkpoint has a text tower of {len(source)} token '
                    'rows, this one has all; set token_ids='
                    f'{len(source)} in the config of the text encoder.'
                )
            state_dict.pop(prefix + 'token_ids', None)
            return
        wanted = self._wanted_ids(source)
        if torch.equal(wanted, source.cpu()):
            state_dict[prefix + 'token_ids'] = wanted
            return
        picked = torch.searchsorted(source.cpu(), wanted)
        state_dict[prefix + 'token_ids'] = wanted
        state_dict[prefix + _EMBEDDING] = weight[picked.to(weight.device)]

    def _adapt_cleaning(self, state_dict: dict[str, Tensor], key: str) -> None:
        """Take the checkpoint's cleaning of texts, or keep the config's."""
        if self.foreign is None:
            state_dict.pop(key, None)  # Embeddings come from a file.
            return
        own = torch.tensor(cleaning_numbers(self.foreign.options))
        said = len(self.foreign.options) > 1
        if key not in state_dict and not said:
            print_log(
                'The weights do not say how texts are cleaned before this '
                f"tokenizer; clean='{CLEANINGS[0]}' is taken: convert the "
                'tower again, or set it beside path.',
                logger='current',
                level=logging.WARNING,
            )
        found = state_dict.setdefault(key, own)
        if said and not torch.equal(found.cpu(), own):
            raise ValueError(
                f'The config cleans texts by {self.foreign.options}, the '
                'weights were trained with another cleaning '
                f'(text_cleaning={found.tolist()}); leave clean and '
                'strip_sep_token out of the config.'
            )

    def _wanted_ids(self, source: Tensor) -> Tensor:
        """Ids to take from a table with the sorted ids ``source``."""
        wanted, source = self.token_ids.cpu(), source.cpu()
        if wanted[0] < 0:
            if len(wanted) != len(source):
                raise ValueError(
                    f'The text encoder has token_ids={len(wanted)}, the '
                    f'checkpoint holds {len(source)} rows; set token_ids='
                    f'{len(source)}, or give the ids to pick.'
                )
            return source
        absent = wanted[~torch.isin(wanted, source)]
        if len(absent):
            raise ValueError(
                f'The checkpoint has no embedding for {len(absent)} of the '
                f'{len(wanted)} token_ids of the text encoder '
                f'({absent[:5].tolist()} ...); set token_ids={len(source)} '
                "to take the checkpoint's."
            )
        return wanted


def _adapt_before_load(
    module: DITOTextEncoder,
    state_dict: dict[str, Tensor],
    prefix: str,
    *_: Any,
) -> None:
    """Run :meth:`DITOTextEncoder.adapt_state_dict` before any loading."""
    module.adapt_state_dict(state_dict, prefix)
