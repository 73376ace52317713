# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""model-index.yml and metafiles against the schema of OpenMMLab's zoos."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from modelindex.load_model_index import load

ROOT = Path(__file__).parents[1]
METAFILES = yaml.safe_load((ROOT / 'model-index.yml').read_text())['Import']
METADATA = {
    'Architecture': list,
    'Training Data': (str, list),
    'Training Techniques': list,
    'Training Resources': str,
    'Training Memory (GB)': float,
    'Training Time (h)': (int, float),
    'Epochs': int,
    'Iterations': int,
    'FLOPs': (int, float),
    'Parameters': (int, float),
}
COLLECTION = {
    'Name': str,
    'Metadata': dict,
    'Paper': dict,
    'README': str,
    'Code': dict,
}
MODEL = {
    'Name': str,
    'Alias': (str, list),
    'In Collection': str,
    'Config': str,
    'Metadata': dict,
    'Results': list,
    'Weights': str,
}
RESULT = {'Task': str, 'Dataset': str, 'Metrics': dict}
TASKS = {
    'Object Detection',
    'Instance Segmentation',
    'Zero-Shot Detection',
    'Zero-Shot Classification',
}


def check(
    value: dict[str, Any], schema: dict[str, Any], required: list[str]
) -> None:
    """Known keys of the right types, and none missing."""
    assert set(value) <= set(schema), set(value) - set(schema)
    assert set(required) <= set(value), set(required) - set(value)
    for key, item in value.items():
        assert isinstance(item, schema[key]), (key, item)


def contents() -> list[dict[str, Any]]:
    return [yaml.safe_load((ROOT / path).read_text()) for path in METAFILES]


def test_index_lists_every_metafile() -> None:
    found = sorted(
        p.relative_to(ROOT).as_posix()
        for p in (ROOT / 'configs').rglob('metafile.yml')
    )
    assert sorted(METAFILES) == found


@pytest.mark.parametrize('path', METAFILES)
def test_schema(path: str) -> None:
    content = yaml.safe_load((ROOT / path).read_text())
    assert set(content) == {'Collections', 'Models'}
    for collection in content['Collections']:
        check(collection, COLLECTION, ['Name', 'Metadata', 'Paper', 'README'])
        check(collection['Metadata'], METADATA, ['Architecture'])
        assert set(collection['Paper']) <= {'Title', 'URL'}
        assert (ROOT / collection['README']).is_file()
    names = {c['Name'] for c in content['Collections']}
    for model in content['Models']:
        check(model, MODEL, ['Name', 'In Collection', 'Config', 'Metadata'])
        check(model['Metadata'], METADATA, ['Training Data'])
        assert model['In Collection'] in names
        assert (ROOT / model['Config']).is_file(), model['Config']
        for result in model.get('Results', ()):
            check(result, RESULT, list(RESULT))
            assert result['Task'] in TASKS
            assert all(
                isinstance(v, (int, float)) for v in result['Metrics'].values()
            )
        if 'Weights' in model:
            assert re.search(
                r'-[0-9a-f]{8}\.(safetensors|pth)$', model['Weights']
            )


def test_names_are_unique() -> None:
    for kind in ('Collections', 'Models'):
        names = [item['Name'] for c in contents() for item in c[kind]]
        assert len(set(names)) == len(names)


def test_read_as_mim_reads_it() -> None:
    index = load(str(ROOT / 'model-index.yml'))
    index.build_models_with_collections()
    wanted = {item['Name'] for c in contents() for item in c['Models']}
    assert {model.name for model in index.models} == wanted
    # Paths of READMEs start at the root, as in OpenMMLab's own metafiles; the
    # reader looks beside the metafile. test_schema checks them.
    errors = [
        text
        for found in index.collect_check_errors()
        for text in found['errors']
        if 'README' not in text
    ]
    assert errors == []
    for model in index.models:
        assert model.in_collection and model.metadata.training_data
