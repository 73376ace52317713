# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Tables 4a to 6b of the paper, row by row, with the paper's figures.

All rows of a table have one schedule, that of their configs. Rows of several
tables that are one network share one training.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

#: Data sets that the tables can be made on: the one drawn by this project,
#: and the paper's.
DATA_SETS = ('symbols', 'lvis')


@dataclass(frozen=True)
class Run:
    """A training, which rows of several tables may share."""

    configs: Mapping[str, str]  #: By data set, without ``.py``.
    #: Config of stage 2 by data set whose result the training starts from.
    #: None: the ``load_from`` of the config.
    pretraining: Mapping[str, str] | None = None
    trained: bool = True  #: False evaluates what it would start from.
    #: Modules that the pretraining did not train, and that therefore start
    #: from random weights.
    start_anew: tuple[str, ...] = ()
    #: More settings, as in ``--cfg-options``: names and values.
    options: tuple[tuple[str, Any], ...] = ()


@dataclass(frozen=True)
class Row:
    """A row of a table."""

    name: str  #: For ``--rows``.
    title: str  #: As the paper has it.
    run: str  #: Key of the training it shows.
    paper: Mapping[str, float]  #: The paper's figures by metric.


@dataclass(frozen=True)
class Table:
    """A table of the paper."""

    name: str  #: Such as '4a'.
    title: str  #: As the paper has it.
    evaluation: str  #: 'detection', or 'regions' for given boxes.
    metrics: Mapping[str, str]  #: Column head by metric, in order.
    rows: tuple[Row, ...]
    note: str = ''  #: What differs from the paper.

    def select(self, names: tuple[str, ...]) -> 'Table':
        """Keep the rows of some names, or all; ValueError if one lacks."""
        known = [row.name for row in self.rows]
        for name in set(names).difference(known):
            raise ValueError(
                f'Table {self.name} has no row {name!r}; its rows are '
                f'{", ".join(known)}.'
            )
        kept = [r for r in self.rows if not names or r.name in names]
        return replace(self, rows=tuple(kept))


_AP_R, _AP = 'lvis/segm_APr', 'lvis/segm_AP'
#: Detection: the paper's mask AP, and what moves earlier on a small set.
DETECTION = {
    _AP_R: 'mask AP_r',
    _AP: 'mask AP',
    'lvis/bbox_novel_AP50': 'novel box AP50',
    'lvis/bbox_base_AP50': 'base box AP50',
}
REGIONS = {
    'lvis/bbox_AP': 'AP',
    'lvis/bbox_APr': 'AP_r',
    'lvis/bbox_APc': 'AP_c',
    'lvis/bbox_APf': 'AP_f',
    'region/novel_top1': 'novel top-1',
    'region/base_top1': 'base top-1',
}
FULL_REP = dict(
    symbols='symbols/rep_symbols', lvis='pretrain/rep_vitl16_laion2b'
)


def _run(symbols: str, lvis: str, rep: Mapping[str, str] | None = None) -> Run:
    return Run(dict(symbols=symbols, lvis=lvis), rep)


def _rovit(row: str, symbols: str | None = None) -> Run:
    """A variant of the baseline, which starts from stage 1."""
    own = f'rovit_symbols{row if symbols is None else symbols}'
    return _run(f'ablations/{own}', f'ablations/rovit_vitl_lvis{row}')


def _rep(kind: str, *start_anew: str) -> Run:
    """The baseline after another stage 2 (Tables 4b and 4c)."""
    pretraining = dict(
        symbols=f'ablations/rep_symbols_{kind}',
        lvis=f'ablations/rep_vitl16_laion2b_{kind}',
    )
    run = _rovit('_rep')
    return replace(run, pretraining=pretraining, start_anew=start_anew)


RUNS: dict[str, Run] = {
    'rovit': _run('ablations/rovit_symbols', 'rovit_vitl_lvis'),
    'rovit_swl': _rovit('_swl'),
    'rovit_fd': _rovit('_fd'),
    'rovit_global': _rovit('_global'),
    'rovit_swin': _rovit('_swin'),
    # Of 4 layers of the small tower 0, 1, 2 and 4 are global, of 24 the
    # paper's 0, 4, 12 and 24. The small tower's baseline has none.
    'l0': _rovit('_l0', symbols=''),
    'l0_swl': _rovit('_l0_swl', symbols='_swl'),
    'l4': _run('ablations/rovit_symbols_l1', 'rovit_vitl_lvis'),
    'l4_swl': _rovit('_swl', symbols='_l1_swl'),
    'l12': _rovit('_l12', symbols='_l2'),
    'l12_swl': _rovit('_l12_swl', symbols='_l2_swl'),
    'rep': replace(_rovit('_rep'), pretraining=FULL_REP),
    'rep_swl': _run(
        'ablations/dito_symbols_no-fd',
        'ablations/dito_vitl_lvis_no-fd',
        FULL_REP,
    ),
    'rep_swl_fd': _run('symbols/dito_symbols', 'dito_vitl_lvis', FULL_REP),
    'teacher_plain': Run(
        dict(symbols='symbols/dito_symbols', lvis='dito_vitl_lvis'),
        FULL_REP,
        options=(('model.teacher.shift', None),),
    ),
    # The towers of stage 1, with the windows and the shift of the other rows.
    'frozen': replace(_rovit('_swl'), trained=False),
    'rep_fpn': _rep('fpn', 'rpn_head', 'roi_head'),
    'rep_fpn_head': _rep('fpn-head', 'rpn_head'),
    'rep_global_avg': _rep('global-avg'),
    'rep_global_max': _rep('global-max'),
    'rep_avg': _rep('avg'),
    'rep_max_all': _rep('max-all'),
}


def _ap(ap_r: float, ap: float | None = None) -> dict[str, float]:
    return {_AP_R: ap_r} if ap is None else {_AP_R: ap_r, _AP: ap}


def _boxes(*figures: float) -> dict[str, float]:
    return dict(zip(list(REGIONS)[:4], figures, strict=True))


def _detection(name: str, title: str, *rows: Row, note: str = '') -> Table:
    return Table(name, title, 'detection', DETECTION, rows, note)


_BEFORE = _boxes(48.7, 56.8, 51.5, 42.1)
_AFTER = _boxes(53.7, 54.2, 53.7, 53.5)
_FD = _boxes(54.8, 57.7, 54.3, 53.2)
_BASELINE = Row('rovit', 'RO-ViT our repro.', 'rovit', _ap(32.2, 33.0))
_REP_SWL = Row('rep-swl', 'w/REP+SWL', 'rep_swl', _ap(36.3, 35.8))
_DITO = Row('rep-swl-fd', 'w/REP+SWL+FD', 'rep_swl_fd', _ap(37.6, 36.2))
_TABLES = (
    _detection(
        '4a',
        'DITO framework',
        _BASELINE,
        Row('rep', 'w/REP', 'rep', _ap(34.8, 34.9)),
        Row('swl', 'w/SWL', 'rovit_swl', _ap(35.0, 35.2)),
        _REP_SWL,
        _DITO,
    ),
    _detection(
        '4b',
        'Detector components in pretraining',
        _BASELINE,
        Row('fpn', 'w/FPN', 'rep_fpn', _ap(33.2)),
        Row('fpn-head', 'w/FPN+Head', 'rep_fpn_head', _ap(34.2)),
        Row('fpn-head-rpn', 'w/FPN+Head+RPN', 'rep', _ap(34.8)),
    ),
    _detection(
        '4c',
        'RoI embedding in pretraining',
        Row('global-avg', 'global avg/lvl', 'rep_global_avg', _ap(34.0)),
        Row('global-max', 'global max/lvl', 'rep_global_max', _ap(33.7)),
        Row('avg', 'multi RoIs, avg/lvl', 'rep_avg', _ap(33.8)),
        Row('max', 'multi RoIs, max/lvl', 'rep', _ap(34.8)),
        Row('max-all', 'multi RoIs, max all', 'rep_max_all', _ap(34.1)),
    ),
    _detection(
        '5a',
        'Shifted-window learning',
        Row('global', 'fully global attn.', 'rovit_global', _ap(33.4, 33.8)),
        Row('window', 'baseline window attn.', 'rovit', _ap(32.2, 33.0)),
        Row('swin', 'Swin style', 'rovit_swin', _ap(31.3, 33.1)),
        Row('swl', 'shifted window', 'rovit_swl', _ap(35.0, 35.2)),
    ),
    _detection(
        '5b',
        'SWL and the number of global attention layers',
        Row('0', '0 of 24 layers global', 'l0', _ap(30.7)),
        Row('0-swl', '0 of 24 layers global, w/ SWL', 'l0_swl', _ap(34.6)),
        Row('4', '4 of 24 layers global', 'l4', _ap(32.2)),
        Row('4-swl', '4 of 24 layers global, w/ SWL', 'l4_swl', _ap(35.0)),
        Row('12', '12 of 24 layers global', 'l12', _ap(32.4)),
        Row('12-swl', '12 of 24 layers global, w/ SWL', 'l12_swl', _ap(34.2)),
        # With no window left there is nothing to shift: one network.
        Row('24', '24 of 24 layers global', 'rovit_global', _ap(33.4)),
        Row(
            '24-swl',
            '24 of 24 layers global, w/ SWL',
            'rovit_global',
            _ap(33.4),
        ),
        note='On symbols 0, 1, 2 and all of 4 layers are global.',
    ),
    Table(
        '6a',
        'Classification of annotated boxes',
        'regions',
        REGIONS,
        (
            Row('before', 'before det. training', 'frozen', _BEFORE),
            Row('after', 'after det. training', 'rep_swl', _AFTER),
            Row('after-fd', 'after det. training w/FD', 'rep_swl_fd', _FD),
        ),
        'Scores are those of the image-text model (z). The paper does not say '
        'which detector of Table 6b it is; here it is the one with REP and '
        'SWL.',
    ),
    _detection(
        '6b',
        'Effect of FD on detection',
        _BASELINE,
        Row('fd', 'RO-ViT our repro. +FD', 'rovit_fd', _ap(34.0, 33.6)),
        _REP_SWL,
        _DITO,
        Row(
            'teacher-plain',
            'w/REP+SWL+FD, teacher not shifted',
            'teacher_plain',
            {},
        ),
        note='The teacher sees shifted windows but for the last row.',
    ),
)
TABLES = {table.name: table for table in _TABLES}
