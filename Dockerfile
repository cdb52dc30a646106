# One image for every process: a container runs one line of the Procfile, exec'ed, so that TERM
# reaches gunicorn or Celery itself. Reaping of orphans is the runtime's: initProcessEnabled in ECS,
# `init: true` in compose.yaml. No `# syntax=` line: it would fetch one more image at each build.

# 3.13: the newest of CI's versions. The digest is that of the multi-architecture index; raise both
# together (docker buildx imagetools inspect python:<version>-slim-bookworm).
FROM python:3.13.11-slim-bookworm@sha256:20080e807bfc404f8450b185cf0fc95d553462673598549613735f70a5b4d5d0 AS base
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PIP_ROOT_USER_ACTION=ignore \
    PYTHONUNBUFFERED=1
WORKDIR /srv/okuru


# --- what the image holds, made where pip is ------------------------------------------------------
FROM base AS build
COPY requirements/app.txt requirements/
# Wheels only: no compiler is needed, and nobody's setup.py runs.
RUN --mount=type=cache,target=/root/.cache/pip \
    python -m venv --without-pip /opt/okuru \
    && pip --python /opt/okuru/bin/python install --require-hashes --only-binary :all: \
        --requirement requirements/app.txt
COPY Procfile ./
COPY app/ app/
COPY migrations/ migrations/
COPY okuru/ okuru/
COPY tasks/ tasks/
# The command `okuru`, and bytecode now, since the image is read-only when it runs.
RUN printf '#!/opt/okuru/bin/python\nfrom okuru.cli import main\n\nmain()\n' > /opt/okuru/bin/okuru \
    && chmod 755 /opt/okuru/bin/okuru \
    && /opt/okuru/bin/python -m compileall -q --invalidation-mode unchecked-hash .


# --- SQS for compose.yaml: never pushed, never deployed -------------------------------------------
FROM base AS sqs
COPY requirements/sqs-emulator.txt requirements/
RUN --mount=type=cache,target=/root/.cache/pip \
    pip install --require-hashes --only-binary :all: --requirement requirements/sqs-emulator.txt
# The last two would open ports that nobody asks for.
ENV GATEWAY_PORT=4566 \
    BIND_HOST=0.0.0.0 \
    MINISTACK_HOST=sqs \
    MINISTACK_REGION=ap-northeast-1 \
    SERVICES=sqs \
    IOT_MTLS_ENABLED=0 \
    SFTP_ENABLED=0
USER 10001:10001
HEALTHCHECK --interval=5s --timeout=3s --retries=12 \
    CMD ["python", "-c", "import urllib.request as r; r.urlopen('http://127.0.0.1:4566/_ministack/health', timeout=2)"]
CMD ["python", "-m", "ministack"]


# --- the image ------------------------------------------------------------------------------------
FROM base
# pip is of no use in a read-only image, except to whoever got in.
RUN pip uninstall --yes pip \
    && groupadd --gid 10001 okuru \
    && useradd --uid 10001 --gid okuru --no-create-home --home-dir /tmp --shell /usr/sbin/nologin okuru
COPY --from=build /opt/okuru /opt/okuru
# Root's: the process can read its code, and not change it.
COPY --from=build /srv/okuru /srv/okuru

ARG VERSION=unknown
ARG REVISION=unknown
LABEL org.opencontainers.image.title="okuru" \
    org.opencontainers.image.description="Sends what must be sent exactly once." \
    org.opencontainers.image.licenses="MIT" \
    org.opencontainers.image.version="${VERSION}" \
    org.opencontainers.image.revision="${REVISION}"
ENV PATH=/opt/okuru/bin:$PATH \
    PYTHONPATH=/srv/okuru \
    PYTHONDONTWRITEBYTECODE=1 \
    DD_VERSION=${VERSION}

USER 10001:10001
# The only place that may be written to. Declared, so that a volume mounted there keeps its mode.
VOLUME /tmp
EXPOSE 8080
# Each service names its own (`okuru health web`, `okuru health worker`, ...): what is healthy
# differs by process, and ECS reads none of an image.
HEALTHCHECK NONE
CMD ["okuru", "--help"]
