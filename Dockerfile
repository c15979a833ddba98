# syntax=docker/dockerfile:1
# mmft as a command, for serving above all; see docs/deploy.md.
#
#   docker build -t mmft .                              NVIDIA GPUs: LMDeploy and transformers
#   docker build -t mmft:cpu --build-arg TARGET=cpu .   no GPU: transformers

ARG PYTHON=3.11
ARG TARGET=cuda

FROM python:${PYTHON}-slim-bookworm AS base
ENV PATH=/opt/mmft/bin:$PATH

FROM base AS build
ARG TARGET
# torch of the default index brings CUDA along. PyTorch's own index for CPUs has it without, and with "+cpu" the higher
# version: --build-arg TORCH_INDEX=URL makes the image some GB smaller.
ARG TORCH_INDEX=
RUN apt-get update \
    && apt-get install -y --no-install-recommends gcc libc6-dev \
    && rm -rf /var/lib/apt/lists/*
RUN python -m venv /opt/mmft
WORKDIR /src
COPY . .
RUN --mount=type=cache,target=/root/.cache/pip \
    if [ "$TARGET" = cpu ]; \
    then pip install ${TORCH_INDEX:+--extra-index-url "$TORCH_INDEX"} '.[serve]'; \
    else pip install '.[serve,deploy]'; \
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
EXPOSE 8000
ENTRYPOINT ["mmft"]
CMD ["--help"]
