# The service, without torch.
#   docker build -f docker/service.Dockerfile -t secateur .                              with the models of models/
#   docker build -f docker/service.Dockerfile --target service -t secateur-service .     models are mounted at /models
#   … --build-arg EXTRAS=service,openvino                                                the second runtime beside ONNX Runtime
ARG PYTHON_IMAGE=docker.io/library/python:3.11.14-slim-bookworm

FROM ${PYTHON_IMAGE} AS build
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
RUN python -m venv /opt/venv
ENV PATH=/opt/venv/bin:$PATH
WORKDIR /src
COPY pyproject.toml constraints.txt LICENSE ./
ARG EXTRAS=service
# What the service needs changes seldom, so it is a layer of its own: installed for a package that is empty yet.
RUN mkdir service && touch README.md service/__init__.py \
    && pip install -c constraints.txt ".[${EXTRAS}]" \
    && pip uninstall --yes secateur
COPY service service
RUN pip install --no-deps . \
    && rm /opt/venv/bin/secateur-prune /opt/venv/bin/secateur-loadtest \
    && pip uninstall --yes setuptools pip

FROM ${PYTHON_IMAGE} AS service
COPY --from=build /opt/venv /opt/venv
ENV PATH=/opt/venv/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    ORT_DISABLE_TELEMETRY=1 \
    SECATEUR_HOST=0.0.0.0 \
    SECATEUR_PORT=8000 \
    SECATEUR_MODELS=/models
WORKDIR /
USER 10001:10001
EXPOSE 8000
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=5s --timeout=4s --start-period=120s --retries=3 \
    CMD ["python", "-c", "import os, urllib.request as r; r.urlopen(f\"http://127.0.0.1:{os.environ['SECATEUR_PORT']}/v2/health/ready\", timeout=3)"]
ENTRYPOINT ["secateur-serve"]

FROM service AS with-models
COPY models /models
