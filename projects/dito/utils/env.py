# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Check an installation: what is there, what breaks, and one remedy each.

Imports only the standard library at the top, and nothing of DITO, so that it
still runs where the very packages it examines cannot be imported.
"""

import importlib
import importlib.util
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass
from importlib import metadata

OK, NOTE, FAIL = 'ok', 'note', 'FAIL'

# Distribution (or its upstream name) -> version the tests ran with. The same
# numbers as requirements/constraints.txt.
TESTED: dict[tuple[str, ...], str] = {
    ('torch',): '2.11.0',
    ('torchvision',): '0.26.0',
    ('numpy',): '2.2.6',
    ('onedl-mmengine', 'mmengine'): '0.10.12',
    ('onedl-mmcv', 'mmcv', 'mmcv-lite'): '2.3.6',
    ('onedl-mmdetection', 'mmdet'): '3.5.1',
    ('open_clip_torch',): '3.3.0',
    ('faster-coco-eval',): '1.8.0',
    ('lvis',): '0.5.3',
    ('pycocotools',): '2.0.11',
    ('safetensors',): '0.8.0',
    ('webdataset',): '1.0.2',
}
PYTHONS = ((3, 10), (3, 13))
# Accepted versions as in requirements/runtime.txt, lowest included, highest
# not, and why they end there.
BOUNDS: dict[str, tuple[str, str, str]] = {
    'torch': ('2.6', '', 'older ones load weights without their types'),
    'torchvision': ('0.21', '', 'it goes with torch 2.6'),
    'numpy': ('1.23', '3', 'the next major version was never tried'),
    'onedl-mmengine': ('0.10.12', '0.11', 'configs follow its interface'),
    'onedl-mmcv': ('2.3.6', '2.4', 'its operators are replaced by name'),
    'onedl-mmdetection': ('3.5.1', '3.6', 'heads inherit from its classes'),
    'open_clip_torch': ('2.30', '4', 'the tokenizer is imported from it'),
    'faster-coco-eval': ('1.6.5', '2', 'LVIS figures are computed by it'),
}
INSTALL = 'pip install -c requirements/constraints.txt -e .'


@dataclass(frozen=True)
class Check:
    """One finding.

    ``status`` is ``ok``, ``note`` (works, but worth knowing) or ``FAIL`` (DITO
    cannot run); there is a remedy where something need be done.
    """

    name: str
    status: str
    text: str
    remedy: str = ''


def _version(names: tuple[str, ...]) -> str | None:
    """Version of the first of these distributions that is installed."""
    for name in names:
        try:
            return metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return None


def _import_error(
    module: str, function: str | None = None
) -> BaseException | None:
    """Import a module and call a function of it; the error if it fails."""
    try:
        imported = importlib.import_module(module)
        if function is not None:
            getattr(imported, function)()
    except Exception as error:  # any failure of foreign code is the finding
        return error
    return None


def _one_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines() or ['']
    return f'{type(error).__name__}: {lines[0]}'


def check_python() -> list[Check]:
    """Python's version, and ``distutils`` where Python no longer has it."""
    found = '.'.join(map(str, sys.version_info[:3]))
    low, high = PYTHONS
    if not low <= sys.version_info[:2] <= high:
        return [
            Check(
                'python',
                FAIL,
                found,
                'make the environment with Python 3.10 to 3.13, which '
                "DITO's own tests and those it depends on ran with",
            )
        ]
    if importlib.util.find_spec('distutils') is None:
        return [
            Check(
                'python',
                FAIL,
                f'{found}, without distutils, which mmengine imports',
                'pip install setuptools',
            )
        ]
    return [Check('python', OK, found)]


def _outside(names: tuple[str, ...], found: str) -> bool:
    """Whether a version is outside of the accepted ones."""
    if names[0] not in BOUNDS or _version(names[:1]) is None:
        return False
    low, high, _ = BOUNDS[names[0]]
    number = _numbers(found)
    return number < _numbers(low) or bool(high) and number >= _numbers(high)


def _numbers(version: str) -> tuple[int, ...]:
    """Numbers of a version, without what follows them."""
    parts = []
    for part in version.split('+')[0].split('.'):
        digits = re.match(r'\d*', part)[0]
        if not digits:
            break
        parts.append(int(digits))
        if digits != part:
            break
    return tuple(parts)


def check_versions() -> list[Check]:
    """Installed versions against the tested ones."""
    checks = []
    for names, tested in TESTED.items():
        found = _version(names)
        if found is None:
            checks.append(Check(names[0], FAIL, 'not installed', INSTALL))
        elif _outside(names, found):
            low, high, cause = BOUNDS[names[0]]
            wanted = f'{low} or newer' + (f', below {high}' if high else '')
            checks.append(
                Check(
                    names[0],
                    FAIL,
                    f'{found}, but {wanted} is needed: {cause}',
                    f'pip install {names[0]}=={tested}',
                )
            )
        elif found.split('+')[0] == tested:
            checks.append(Check(names[0], OK, found))
        else:
            checks.append(
                Check(
                    names[0],
                    NOTE,
                    f'{found} (tested: {tested})',
                    f'if something fails: pip install {names[0]}=={tested}',
                )
            )
    return checks


def check_duplicates() -> list[Check]:
    """Two distributions that write into the same import package."""
    checks = []
    for old, new in (
        ('mmengine', 'onedl-mmengine'),
        ('mmcv', 'onedl-mmcv'),
        ('mmdet', 'onedl-mmdetection'),
    ):
        if _version((old,)) and _version((new,)):
            checks.append(
                Check(
                    old,
                    FAIL,
                    f'{old} and {new} are both installed and '
                    'overwrite each other',
                    f'pip uninstall -y {old} {new} && pip install {new}',
                )
            )
    return checks


def check_opencv() -> list[Check]:
    """OpenCV, whose desktop build needs the system's libGL."""
    error = _import_error('cv2')
    if error is None:
        return [Check('opencv', OK, sys.modules['cv2'].__version__)]
    text = _one_line(error)
    if any(word in text for word in ('libGL', 'libgthread', 'libX', 'libSM')):
        return [
            Check(
                'opencv',
                FAIL,
                f'the desktop build needs a system library: {text}',
                'pip install --force-reinstall --no-deps '
                'opencv-python-headless==4.12.0.88 (or, on Debian, '
                'apt-get install libgl1 libglib2.0-0)',
            )
        ]
    return [
        Check(
            'opencv',
            FAIL,
            text,
            'pip install opencv-python-headless==4.12.0.88',
        )
    ]


def require_device(device: str | None) -> None:
    """Refuse a device that PyTorch cannot use here, in one sentence.

    Raises:
        ValueError: If it is unknown or missing. None is any device.
    """
    if device is None:
        return
    import torch

    try:
        torch.empty(1, device=device).cpu()
    except (AssertionError, RuntimeError) as error:
        reason = str(error).splitlines()[0].split('. ')[0][:120]
        raise ValueError(
            f'The device {str(device)!r} cannot be used here ({reason}); '
            'give cpu, or cuda where "dito check-env" lists a GPU.'
        ) from error


def check_torch() -> list[Check]:
    """PyTorch, the device it would use, and torchvision's operators."""
    error = _import_error('torch')
    if error is not None:
        return [Check('torch import', FAIL, _one_line(error), INSTALL)]
    torch = sys.modules['torch']
    checks = []
    if torch.cuda.is_available():
        names = [
            torch.cuda.get_device_name(i)
            for i in range(torch.cuda.device_count())
        ]
        bf16 = 'bf16' if torch.cuda.is_bf16_supported() else 'no bf16'
        checks.append(Check('device', OK, f'{", ".join(names)} ({bf16})'))
    elif torch.version.cuda:
        checks.append(
            Check(
                'device',
                NOTE,
                'cpu (this PyTorch has CUDA '
                f'{torch.version.cuda}, no usable GPU was found)',
                'on a GPU machine: see nvidia-smi, and install a driver at '
                'least as new as that CUDA version',
            )
        )
    else:
        checks.append(Check('device', OK, 'cpu (PyTorch without CUDA)'))
    try:
        vision = importlib.import_module('torchvision')
        boxes = torch.tensor([[0.0, 0.0, 1.0, 1.0]])
        vision.ops.nms(boxes, torch.ones(1), 0.5)
    except Exception as failure:  # any failure of foreign code is the finding
        checks.append(
            Check(
                'torchvision ops',
                FAIL,
                _one_line(failure),
                'install the torchvision made for this PyTorch: pip install '
                '-c requirements/constraints.txt torch torchvision',
            )
        )
    else:
        checks.append(Check('torchvision ops', OK, 'nms and roi_align work'))
    return checks


def check_mmcv_ops() -> list[Check]:
    """Whether mmcv's compiled operators or torchvision's are in use."""
    error = _import_error('mmcv')
    if error is not None:
        return [
            Check(
                'mmcv ops',
                FAIL,
                f'mmcv cannot be imported: {_one_line(error)}',
                INSTALL,
            )
        ]
    module = sys.modules.get('mmcv._ext')
    stand_in = module is not None and getattr(module, '__file__', None) is None
    # DITO's has no place on the disk.
    found = None if stand_in else importlib.util.find_spec('mmcv._ext')
    if found is None or not found.has_location:
        return [
            Check(
                'mmcv ops',
                OK,
                'not compiled: DITO uses torchvision for nms and roi_align',
            )
        ]
    error = _import_error('mmcv._ext')
    if error is not None:
        return [
            Check(
                'mmcv ops',
                FAIL,
                f'the compiled extension does not load: {_one_line(error)}',
                'pip install --force-reinstall --no-deps onedl-mmcv==2.3.6',
            )
        ]
    return [Check('mmcv ops', OK, 'compiled')]


def check_lvis() -> list[Check]:
    """The lvis package on numpy without ``np.float``."""
    error = _import_error('numpy')
    if error is not None:
        return [Check('numpy import', FAIL, _one_line(error), INSTALL)]
    if not hasattr(sys.modules['numpy'], 'float'):
        return [
            Check(
                'lvis',
                OK,
                'its own evaluation needs numpy < 1.24; DITO '
                'evaluates LVIS with faster-coco-eval, same figures',
            )
        ]
    return [Check('lvis', OK, 'works with this numpy')]


def check_dito() -> list[Check]:
    """Whether everything together can be imported."""
    error = _import_error('dito', 'register')
    if error is not None:
        return [
            Check(
                'dito',
                FAIL,
                f'import dito fails: {_one_line(error)}',
                f'mend the lines above first, then: {INSTALL}',
            )
        ]
    module = sys.modules['dito']
    return [Check('dito', OK, f'{module.__version__} at {module.__file__}')]


CHECKS: tuple[Callable[[], list[Check]], ...] = (
    check_python,
    check_versions,
    check_duplicates,
    check_opencv,
    check_torch,
    check_mmcv_ops,
    check_lvis,
    check_dito,
)


def run_checks() -> list[Check]:
    """Run every check, in order; never raises for a broken environment."""
    return [check for group in CHECKS for check in group()]


def format_report(checks: list[Check]) -> str:
    """Write the findings as lines of text, a remedy below each problem."""
    width = max(len(check.name) for check in checks)
    lines = []
    for check in checks:
        lines.append(f'{check.status:>4}  {check.name:<{width}}  {check.text}')
        if check.remedy:
            lines.append(f'{"":>4}  {"":<{width}}  -> {check.remedy}')
    failed = sum(check.status == FAIL for check in checks)
    lines.append(
        f'{failed} problem(s) keep DITO from running.'
        if failed
        else 'DITO can run here.'
    )
    return '\n'.join(lines)


def main() -> int:
    """Print the report; 1 when something keeps DITO from running, else 0."""
    checks = run_checks()
    print(format_report(checks))
    return int(any(check.status == FAIL for check in checks))


if __name__ == '__main__':
    raise SystemExit(main())
