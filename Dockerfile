# DITO for MMDetection: `dito` in a container.
#
#   docker build -t dito .                                        # CPU
#   docker build -t dito:cuda \
#       --build-arg TORCH_INDEX=https://download.pytorch.org/whl/cu130 .
#   docker run --rm -v "$PWD:/work" dito detect photo.jpg --names "dog, kite"
#   docker run --rm --gpus all -v "$PWD:/work" dito:cuda train CONFIG
FROM python:3.11-slim

ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu

WORKDIR /opt/dito
COPY requirements requirements
# Beside PyPI, which alone has every pinned version of what torch needs; of one
# version pip takes the build with a suffix, such as 2.11.0+cpu.
RUN pip install --no-cache-dir -c requirements/constraints.txt \
    --extra-index-url "${TORCH_INDEX}" torch torchvision
COPY . .
# The headless OpenCV of the same version needs no libGL.
RUN pip install --no-cache-dir -c requirements/constraints.txt . \
    && pip install --no-cache-dir -c requirements/constraints.txt --no-deps \
    --force-reinstall opencv-python-headless \
    && dito check-env \
    && useradd --create-home --uid 1000 dito

USER 1000
WORKDIR /work
ENTRYPOINT ["dito"]
CMD ["--help"]
