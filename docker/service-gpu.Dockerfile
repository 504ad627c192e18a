# The service on an NVIDIA GPU: CUDA 13 and cuDNN 9, which this version of ONNX Runtime is built for. Models (fp16) are mounted at /models.
#   docker build -f docker/service-gpu.Dockerfile -t secateur-service-gpu .
#   docker run --gpus all --read-only -p 127.0.0.1:8000:8000 -v ./models:/models:ro secateur-service-gpu
ARG CUDA_IMAGE=docker.io/nvidia/cuda:13.0.2-cudnn-runtime-ubuntu24.04

FROM ${CUDA_IMAGE} AS build
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
# hadolint ignore=DL3008 # Ubuntu does not keep older versions of its packages
RUN apt-get update \
    && apt-get install --yes --no-install-recommends python3 python3-venv \
    && rm -rf /var/lib/apt/lists/*
RUN python3 -m venv /opt/venv
ENV PATH=/opt/venv/bin:$PATH
WORKDIR /src
COPY pyproject.toml constraints.txt LICENSE ./
# onnxruntime-gpu, of the same version, takes the place of onnxruntime: both hold the same files.
RUN mkdir service && touch README.md service/__init__.py \
    && pip install -c constraints.txt ".[service]" \
    && pip uninstall --yes secateur onnxruntime \
    && pip install -c constraints.txt "onnxruntime-gpu==$(sed -n 's/^onnxruntime==//p' constraints.txt)"
COPY service service
RUN pip install --no-deps . \
    && rm /opt/venv/bin/secateur-prune /opt/venv/bin/secateur-loadtest \
    && pip uninstall --yes pip

FROM ${CUDA_IMAGE} AS service
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends python3 \
    && rm -rf /var/lib/apt/lists/*
COPY --from=build /opt/venv /opt/venv
ENV PATH=/opt/venv/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    ORT_DISABLE_TELEMETRY=1 \
    SECATEUR_DEVICE=cuda \
    SECATEUR_HOST=0.0.0.0 \
    SECATEUR_PORT=8000 \
    SECATEUR_MODELS=/models
WORKDIR /
USER 10001:10001
EXPOSE 8000
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=5s --timeout=4s --start-period=300s --retries=3 \
    CMD ["python", "-c", "import os, urllib.request as r; r.urlopen(f\"http://127.0.0.1:{os.environ['SECATEUR_PORT']}/v2/health/ready\", timeout=3)"]
ENTRYPOINT ["secateur-serve"]
