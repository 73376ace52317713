# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Tests of what the package is made of and what a wheel of it holds."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from setuptools.command.egg_info import FileList

import dito
from dito.utils.configs import list_configs

ROOT = Path(__file__).parents[1]


def requirements(name: str) -> list[str]:
    """Lines of a file under requirements/."""
    lines = (ROOT / 'requirements' / f'{name}.txt').read_text().splitlines()
    return [line for line in lines if line and not line.startswith('#')]


def package_name(line: str) -> str:
    """Name of the distribution in a line of requirements."""
    return re.match(r'[\w.-]+', line)[0].lower().replace('_', '-')


def test_torch_is_not_pinned() -> None:
    lines = {package_name(line): line for line in requirements('runtime')}
    for name in ('torch', 'torchvision'):
        assert re.fullmatch(rf'{name}>=[\d.]+', lines[name])


@pytest.mark.parametrize(
    'name', ['runtime', 'tests', 'optional', 'docs', 'constraints']
)
def test_requirements_are_sorted_and_clean(name: str) -> None:
    lines = requirements(name)
    names = [package_name(line) for line in lines]
    assert names == sorted(names) and len(set(names)) == len(names)
    assert not any('://' in line or line.startswith('-') for line in lines)


def test_constraints_pin_what_is_required_and_tested() -> None:
    pins = {package_name(line) for line in requirements('constraints')}
    needed = {package_name(line) for line in requirements('runtime')}
    assert needed - pins <= {'matplotlib', 'setuptools'}
    assert all('==' in line for line in requirements('constraints'))


def test_metafile_names_every_config() -> None:
    index = yaml.safe_load((ROOT / 'model-index.yml').read_text())
    models = []
    for path in index['Import']:
        content = yaml.safe_load((ROOT / path).read_text())
        names = {c['Name'] for c in content['Collections']}
        assert all(m['In Collection'] in names for m in content['Models'])
        models += content['Models']
    for model in models:
        assert (ROOT / model['Config']).is_file(), model['Config']
        assert Path(model['Config']).stem == model['Name']
        for weights in filter(None, [model.get('Weights')]):
            assert not weights.startswith('http') or weights.count('/') > 3
    listed = {m['Config'].removeprefix('configs/')[:-3] for m in models}
    wanted = {
        name for name in list_configs() if not name.startswith('ablations/')
    }
    assert wanted <= listed


def test_citation_and_licence() -> None:
    citation = yaml.safe_load((ROOT / 'CITATION.cff').read_text())
    assert citation['license'] == 'Apache-2.0'
    assert 'Apache License' in (ROOT / 'LICENSE').read_text()[:200]
    for path in (ROOT / 'projects').rglob('*.py'):
        assert 'Apache-2.0' in path.read_text().split('\n', 1)[0], path


def test_a_source_distribution_holds_every_file(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if not (ROOT / '.git').exists():
        pytest.skip('only a clone knows its files')
    monkeypatch.chdir(ROOT)
    listed = FileList()
    for line in Path('MANIFEST.in').read_text().splitlines():
        listed.process_template_line(line)
    done = subprocess.run(
        ['git', 'ls-files', '-z'], capture_output=True, check=True, text=True
    )
    tracked = set(done.stdout.split('\0')) - {''}
    # setuptools itself adds the modules of the package.
    modules = {
        name
        for name in tracked
        if name.startswith('projects/') and name.endswith('.py')
    }
    left_out = tracked - set(listed.files) - modules
    # And all of these but for the first two.
    assert left_out <= {
        '.github/workflows/ci.yml',
        '.gitignore',
        'MANIFEST.in',
        'README.md',
        'pyproject.toml',
        'setup.cfg',
        'setup.py',
    }


@pytest.fixture(scope='module')
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel, built from a copy of the sources."""
    folder = tmp_path_factory.mktemp('wheel')
    source = folder / 'source'
    source.mkdir()
    for item in ('configs', 'tools', 'requirements'):
        shutil.copytree(
            ROOT / item,
            source / item,
            ignore=shutil.ignore_patterns('__pycache__'),
        )
    shutil.copytree(
        ROOT / 'projects' / 'dito',
        source / 'projects' / 'dito',
        ignore=shutil.ignore_patterns('__pycache__', '.mim'),
    )
    for item in (
        'setup.py',
        'setup.cfg',
        'pyproject.toml',
        'MANIFEST.in',
        'README.md',
        'LICENSE',
        'NOTICE',
        'model-index.yml',
    ):
        shutil.copy(ROOT / item, source)
    # Without pip's isolation, which would download setuptools.
    target = folder / 'lib'
    subprocess.run(
        [sys.executable, 'setup.py', '-q', 'build_py', '--build-lib', target],
        cwd=source,
        check=True,
        capture_output=True,
    )
    return target


def test_package_holds_all_modules_configs_and_tools(wheel: Path) -> None:
    for part, source in (
        ('', ROOT / 'projects' / 'dito'),
        ('.mim/configs', ROOT / 'configs'),
        ('.mim/tools', ROOT / 'tools'),
    ):
        for path in source.rglob('*'):
            name = path.relative_to(source)
            if path.is_file() and not (
                {'.mim', '__pycache__'} & set(name.parts)
            ):
                assert (wheel / 'dito' / part / name).is_file(), path
    assert (wheel / 'dito' / '.mim' / 'model-index.yml').is_file()
    assert not list(wheel.rglob('__pycache__'))


def test_works_outside_a_clone(wheel: Path, tmp_path: Path) -> None:
    own = tmp_path / 'own.py'
    own.write_text(
        "_base_ = 'dito::_base_/../dito_vitl_lvis.py'\nlog_level = 'DEBUG'\n"
    )
    env = {**os.environ, 'PYTHONPATH': str(wheel)}
    code = (
        'import dito, sys; from mmengine.config import Config; '
        'from mmengine.hub import get_config; '
        "a = get_config('dito::symbols/dito_symbols.py'); "
        "b = Config.fromfile('own.py'); "
        'from mmdet.registry import VISUALIZERS; '
        'VISUALIZERS.build(b.visualizer); '
        'from dito.cli.print_config import main; '
        "sys.exit(main(['dito_vitl_lvis', '--out', 'whole.py']) or "
        'print(dito.__file__, a.model.type, b.log_level))'
    )
    done = subprocess.run(
        [sys.executable, '-c', code],
        cwd=tmp_path,
        env=env,
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    last = done.stdout.splitlines()[-1]
    assert last == f'{wheel}/dito/__init__.py DITO DEBUG'
    assert "type='DITOViT'" in (tmp_path / 'whole.py').read_text()


def test_version_is_one() -> None:
    assert re.fullmatch(r'\d+\.\d+\.\d+', dito.__version__)
    changes = (ROOT / 'CHANGELOG.md').read_text()
    assert f'## {dito.__version__}' in changes
    assert 'attr: dito.version.__version__' in (ROOT / 'setup.cfg').read_text()
