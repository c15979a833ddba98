# syntax=docker/dockerfile:1
# mmft as a command, for serving above all; see docs/deploy.md. Not built by anybody yet.
#
#   docker build -t mmft .                              NVIDIA GPUs: LMDeploy and transformers
#   docker build -t mmft:cpu --build-arg TARGET=cpu --build-arg TORCH_INDEX=https://download.pytorch.org/whl/cpu .
#                                                       no GPU: transformers

ARG PYTHON=3.11
ARG TARGET=cuda

FROM python:${PYTHON}-slim-bookworm AS base
ENV PATH=/opt/mmft/bin:$PATH

FROM base AS build
ARG TARGET
# torch of the default index brings CUDA along, some GB of it. PyTorch's own index for CPUs has it without, and with
# "+cpu" the higher version.
ARG TORCH_INDEX=
RUN apt-get update \
    && apt-get install -y --no-install-recommends gcc libc6-dev \
    && rm -rf /var/lib/apt/lists/*
RUN python -m venv /opt/mmft
WORKDIR /src
COPY . .
RUN --mount=type=cache,target=/root/.cache/pip \
    if [ "$TARGET" = cpu ]; \
    then pip install ${TORCH_INDEX:+--extra-index-url "$TORCH_INDEX"} '.[serve,webui]'; \
    else pip install '.[serve,deploy,webui]'; \
    fi

FROM base AS cpu

FROM base AS cuda
# Triton, under LMDeploy's PyTorch engine, compiles small C files while it runs.
RUN apt-get update \
    && apt-get install -y --no-install-recommends gcc libc6-dev \
    && rm -rf /var/lib/apt/lists/*

FROM ${TARGET}
COPY --from=build /opt/mmft /opt/mmft
RUN useradd --create-home --uid 1000 mmft
USER mmft
WORKDIR /home/mmft
ENV HF_HUB_OFFLINE=1 PYTHONUNBUFFERED=1
EXPOSE 8000 7860
# Of `mmft serve` on its usual port; a large model takes long to load.
HEALTHCHECK --interval=30s --timeout=10s --start-period=30m \
    CMD python -c "import urllib.request as web; web.urlopen('http://127.0.0.1:8000/health', timeout=5)"
ENTRYPOINT ["mmft"]
CMD ["--help"]
