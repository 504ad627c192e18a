# `secateur-prune`, with torch. What it writes goes to /project, what it downloads to /project/.cache.
#   docker build -f docker/pruning.Dockerfile -t secateur-pruning .
#   docker run --rm -v ./runs:/project/runs --user "$(id -u):$(id -g)" secateur-pruning run demo --output runs/demo
#   … --build-arg TORCH_INDEX=https://download.pytorch.org/whl/cu130                     torch for GPUs
ARG PYTHON_IMAGE=docker.io/library/python:3.11.14-slim-bookworm

FROM ${PYTHON_IMAGE} AS build
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
RUN python -m venv /opt/venv
ENV PATH=/opt/venv/bin:$PATH
WORKDIR /src
COPY pyproject.toml constraints.txt LICENSE ./
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
RUN pip install --no-deps --index-url "${TORCH_INDEX}" -c constraints.txt torch
RUN mkdir service pruning && touch README.md service/__init__.py pruning/__init__.py \
    && pip install -c constraints.txt ".[pruning]" \
    && pip uninstall --yes secateur
COPY service service
COPY pruning pruning
RUN pip install --no-deps . \
    && rm /opt/venv/bin/secateur-loadtest

FROM ${PYTHON_IMAGE} AS pruning
COPY --from=build /opt/venv /opt/venv
COPY models /project/models
RUN mkdir -p /project/runs /project/.cache && chmod 1777 /project/runs /project/.cache
ENV PATH=/opt/venv/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    ORT_DISABLE_TELEMETRY=1 \
    HOME=/project \
    MPLCONFIGDIR=/tmp/matplotlib
WORKDIR /project
USER 10001:10001
STOPSIGNAL SIGINT
ENTRYPOINT ["secateur-prune"]
CMD ["--help"]
