# The load tests: Locust with its own page, unless `secateur-loadtest` is asked for by name.
#   docker build -f docker/loadtest.Dockerfile -t secateur-loadtest .
ARG PYTHON_IMAGE=docker.io/library/python:3.11.14-slim-bookworm

FROM ${PYTHON_IMAGE} AS build
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
RUN python -m venv /opt/venv
ENV PATH=/opt/venv/bin:$PATH
WORKDIR /src
COPY pyproject.toml constraints.txt LICENSE ./
RUN mkdir service loadtests && touch README.md service/__init__.py loadtests/__init__.py \
    && pip install -c constraints.txt ".[loadtests]" \
    && pip uninstall --yes secateur
COPY service service
COPY loadtests loadtests
RUN pip install --no-deps . \
    && rm /opt/venv/bin/secateur-prune \
    && pip uninstall --yes setuptools pip

FROM ${PYTHON_IMAGE} AS loadtest
COPY --from=build /opt/venv /opt/venv
COPY loadtests/locustfile.py /app/locustfile.py
RUN mkdir /results && chown 10001:10001 /results
ENV PATH=/opt/venv/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    ORT_DISABLE_TELEMETRY=1 \
    MPLCONFIGDIR=/tmp/matplotlib
WORKDIR /app
USER 10001:10001
EXPOSE 8089 9101
CMD ["locust"]
