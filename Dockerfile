# One image for migrate, api and worker: `docker run IMAGE migrate`, `... api`, `... worker`.
ARG PYTHON_IMAGE=python:3.13-slim

FROM ${PYTHON_IMAGE} AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore
WORKDIR /src
# Everything the lock names, checked by its hashes; what follows installs from these files alone. A layer of its own:
# it stays cached until the lock changes.
COPY requirements.lock ./
RUN pip download -q --no-cache-dir --require-hashes --only-binary :all: -r requirements.lock -d /wheels
COPY pyproject.toml README.md LICENSE ./
COPY sql sql
COPY shared shared
COPY api api
COPY worker worker
# From the wheelhouse pip takes what the two extras need, so neither the embedded Postgres nor hatchling.
RUN pip wheel -q --no-cache-dir --no-deps --no-index --find-links /wheels -w /wheels . \
 && python3 -m venv --without-pip /opt/pgfleet \
 && pip --python /opt/pgfleet/bin/python install -q --no-cache-dir --no-index --find-links /wheels "pgfleet[api,worker]"

FROM ${PYTHON_IMAGE}
LABEL org.opencontainers.image.title="pgfleet" org.opencontainers.image.licenses="MIT"
# A fixed number: the shared volume's folder belongs to it, on every server (see compose.yaml).
RUN groupadd --gid 10001 pgfleet \
 && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /nonexistent --shell /usr/sbin/nologin pgfleet \
 && install -d -o pgfleet -g pgfleet /exports
COPY --from=build /opt/pgfleet /opt/pgfleet
ENV PATH=/opt/pgfleet/bin:$PATH PYTHONUNBUFFERED=1 PGFLEET_EXPORT_DIR=/exports PGFLEET_API_HOST=0.0.0.0
USER 10001:10001
# Empty; on the module path of `worker --handlers`: mount your own handlers here.
WORKDIR /app
EXPOSE 8000
ENTRYPOINT ["pgfleet"]
CMD ["--help"]
