# Two images, each with spin_trl, its dependencies in the versions of constraints.txt, and a non-root user:
#
#   docker build --tag spin_trl .                    with CUDA; the host needs NVIDIA's driver and container toolkit
#   docker build --target cpu --tag spin_trl:cpu .   gigabytes smaller, for a CPU
#
#   docker run --rm -it --gpus all --shm-size 1g -v "$PWD:/work" -v "$HOME/.cache/huggingface:/home/spin/.cache/huggingface" \
#       spin_trl run recipe.yaml
#
# Files written by a run belong to user 1000; `--build-arg UID="$(id -u)"` makes them yours. Pass a Hub token when the image
# is run (`-e HF_TOKEN`), never when it is built.

ARG PYTHON=3.12

FROM python:${PYTHON}-slim-bookworm AS wheel
WORKDIR /source
COPY setup.cfg setup.py pyproject.toml README.md LICENSE ./
COPY spin_trl spin_trl
COPY recipes recipes
RUN python -m pip wheel --no-cache-dir --no-deps --wheel-dir dist .

FROM python:${PYTHON}-slim-bookworm AS base
ARG UID=1000
# Triton compiles its launchers with a C compiler when a kernel is first used.
RUN apt-get update \
    && apt-get install --yes --no-install-recommends gcc libc6-dev \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --create-home --uid "$UID" spin \
    && mkdir -p /work /home/spin/.cache/huggingface \
    && chown -R spin /work /home/spin/.cache
ENV PYTHONUNBUFFERED=1
WORKDIR /install
COPY constraints.txt ./

FROM base AS cpu
# PyTorch first, in a separate layer: it is the largest, and changes least often.
RUN python -m pip install --no-cache-dir --extra-index-url https://download.pytorch.org/whl/cpu \
    --constraint constraints.txt torch
COPY --from=wheel /source/dist dist
RUN python -m pip install --no-cache-dir --constraint constraints.txt dist/*.whl
USER spin
WORKDIR /work
ENTRYPOINT ["spin-trl"]
CMD ["--help"]

# PyTorch's wheel from PyPI brings CUDA's libraries, so the base image needs none.
FROM base AS cuda
ENV NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility
RUN python -m pip install --no-cache-dir --constraint constraints.txt torch
COPY --from=wheel /source/dist dist
RUN python -m pip install --no-cache-dir --constraint constraints.txt dist/*.whl
USER spin
WORKDIR /work
ENTRYPOINT ["spin-trl"]
CMD ["--help"]
