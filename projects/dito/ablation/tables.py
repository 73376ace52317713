# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Tables 4a to 6b of the paper, row by row, with the paper's figures.

All rows of a table have one schedule, that of their configs. Rows of several
tables that are one network share one training.
"""

from typing import Dict, Optional, Tuple

from .spec import Paper, Row, Run, Table

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
_FULL_REP = dict(
    symbols='symbols/rep_symbols', lvis='pretrain/rep_vitl16_laion2b')


def _configs(symbols: str, lvis: str) -> Dict[str, str]:
    return dict(symbols=symbols, lvis=lvis)


def _rovit(row: str, symbols: Optional[str] = None,
           lvis: Optional[str] = None) -> Run:
    """A variant of the baseline, which starts from stage 1."""
    return Run(_configs(symbols or f'ablations/rovit_symbols{row}',
                        lvis or f'ablations/rovit_vitl_lvis{row}'))


def _rep(kind: str, *start_anew: str) -> Run:
    """The baseline after another stage 2 (Tables 4b and 4c)."""
    return Run(
        _configs('ablations/rovit_symbols_rep',
                 'ablations/rovit_vitl_lvis_rep'),
        dict(symbols=f'ablations/rep_symbols_{kind}',
             lvis=f'ablations/rep_vitl16_laion2b_{kind}'),
        start_anew=start_anew)


RUNS: Dict[str, Run] = {
    'rovit': _rovit('', lvis='rovit_vitl_lvis'),
    'rovit_swl': _rovit('_swl'),
    'rovit_fd': _rovit('_fd'),
    'rovit_global': _rovit('_global'),
    'rovit_swin': _rovit('_swin'),
    # Of 4 layers of the small tower 0, 1, 2 and 4 are global, of 24 the
    # paper's 0, 4, 12 and 24. The small tower's baseline has none.
    'l0': _rovit('_l0', symbols='ablations/rovit_symbols'),
    'l0_swl': _rovit('_l0_swl', symbols='ablations/rovit_symbols_swl'),
    'l4': _rovit('', 'ablations/rovit_symbols_l1', 'rovit_vitl_lvis'),
    'l4_swl': _rovit('_swl', symbols='ablations/rovit_symbols_l1_swl'),
    'l12': _rovit('_l12', symbols='ablations/rovit_symbols_l2'),
    'l12_swl': _rovit('_l12_swl', symbols='ablations/rovit_symbols_l2_swl'),
    'rep': Run(
        _configs('ablations/rovit_symbols_rep',
                 'ablations/rovit_vitl_lvis_rep'), _FULL_REP),
    'rep_swl': Run(
        _configs('ablations/dito_symbols_no-fd',
                 'ablations/dito_vitl_lvis_no-fd'), _FULL_REP),
    'rep_swl_fd': Run(
        _configs('symbols/dito_symbols', 'dito_vitl_lvis'), _FULL_REP),
    # The towers of stage 1, with the windows and the shift of the other rows.
    'frozen': Run(
        _configs('ablations/rovit_symbols_swl',
                 'ablations/rovit_vitl_lvis_swl'), trained=False),
    'rep_fpn': _rep('fpn', 'rpn_head', 'roi_head'),
    'rep_fpn_head': _rep('fpn-head', 'rpn_head'),
    'rep_global_avg': _rep('global-avg'),
    'rep_global_max': _rep('global-max'),
    'rep_avg': _rep('avg'),
    'rep_max_all': _rep('max-all'),
}


def _ap(ap_r: float, ap: Optional[float] = None) -> Paper:
    return {_AP_R: ap_r} if ap is None else {_AP_R: ap_r, _AP: ap}


def _given(ap: float, ap_r: float, ap_c: float, ap_f: float) -> Paper:
    return {f'lvis/bbox_AP{k}': v
            for k, v in zip(['', *'rcf'], (ap, ap_r, ap_c, ap_f),
                            strict=True)}


def _detection(name: str, title: str, *rows: Row, note: str = '') -> Table:
    return Table(name, title, 'detection', DETECTION, tuple(rows), note)


def _layers() -> Tuple[Row, ...]:
    """Rows of Table 5b: number of global layers, without and with SWL."""
    rows = []
    for layers, runs, figures in (
        ('0', ('l0', 'l0_swl'), (30.7, 34.6)),
        ('4', ('l4', 'l4_swl'), (32.2, 35.0)),
        ('12', ('l12', 'l12_swl'), (32.4, 34.2)),
            # With no window left there is nothing to shift: one network.
        ('24', ('rovit_global', 'rovit_global'), (33.4, 33.4))):
        for run, figure, suffix, words in zip(
                runs, figures, ('', '-swl'), ('', ', w/ SWL'), strict=True):
            rows.append(Row(f'{layers}{suffix}',
                            f'{layers} of 24 layers global{words}', run,
                            _ap(figure)))
    return tuple(rows)


_BASELINE = Row('rovit', 'RO-ViT our repro.', 'rovit', _ap(32.2, 33.0))
_REP = Row('rep', 'w/REP', 'rep', _ap(34.8, 34.9))
_REP_SWL = Row('rep-swl', 'w/REP+SWL', 'rep_swl', _ap(36.3, 35.8))
_DITO = Row('rep-swl-fd', 'w/REP+SWL+FD', 'rep_swl_fd', _ap(37.6, 36.2))

TABLES: Dict[str, Table] = {
    table.name: table
    for table in (
        _detection(
            '4a', 'DITO framework', _BASELINE, _REP,
            Row('swl', 'w/SWL', 'rovit_swl', _ap(35.0, 35.2)), _REP_SWL,
            _DITO),
        _detection(
            '4b', 'Detector components in pretraining', _BASELINE,
            Row('fpn', 'w/FPN', 'rep_fpn', _ap(33.2)),
            Row('fpn-head', 'w/FPN+Head', 'rep_fpn_head', _ap(34.2)),
            Row('fpn-head-rpn', 'w/FPN+Head+RPN', 'rep', _ap(34.8))),
        _detection(
            '4c', 'RoI embedding in pretraining',
            Row('global-avg', 'global avg/lvl', 'rep_global_avg', _ap(34.0)),
            Row('global-max', 'global max/lvl', 'rep_global_max', _ap(33.7)),
            Row('avg', 'multi RoIs, avg/lvl', 'rep_avg', _ap(33.8)),
            Row('max', 'multi RoIs, max/lvl', 'rep', _ap(34.8)),
            Row('max-all', 'multi RoIs, max all', 'rep_max_all', _ap(34.1))),
        _detection(
            '5a', 'Shifted-window learning',
            Row('global', 'fully global attn.', 'rovit_global',
                _ap(33.4, 33.8)),
            Row('window', 'baseline window attn.', 'rovit', _ap(32.2, 33.0)),
            Row('swin', 'Swin style', 'rovit_swin', _ap(31.3, 33.1)),
            Row('swl', 'shifted window', 'rovit_swl', _ap(35.0, 35.2))),
        _detection(
            '5b', 'SWL and the number of global attention layers',
            *_layers(),
            note='On symbols 0, 1, 2 and all of 4 layers are global.'),
        Table(
            '6a', 'Classification of annotated boxes', 'regions', REGIONS,
            (Row('before', 'before det. training', 'frozen',
                 _given(48.7, 56.8, 51.5, 42.1)),
             Row('after', 'after det. training', 'rep_swl',
                 _given(53.7, 54.2, 53.7, 53.5)),
             Row('after-fd', 'after det. training w/FD', 'rep_swl_fd',
                 _given(54.8, 57.7, 54.3, 53.2))),
            note='Scores are those of the image-text model (z). The paper '
            'does not say which detector of Table 6b it is; here it is the '
            'one with REP and SWL.'),
        _detection(
            '6b', 'Effect of FD on detection', _BASELINE,
            Row('fd', 'RO-ViT our repro. +FD', 'rovit_fd',
                _ap(34.0, 33.6)), _REP_SWL, _DITO),
    )
}
