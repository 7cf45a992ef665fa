# One image for head, workers, submitter and MLflow server. Built from the repository's root:
#
#   docker build -t registry.example.com/distrib:0.2.0 .
#   docker build -t distrib:cpu --build-arg BASE_IMAGE=rayproject/ray:2.60.0-py311-cpu .
#
# Everything that Python needs is in /opt/distrib, as requirements.lock pins it, Ray too: the base gives Python 3.11, the
# user 1000 and, for GPUs, NVIDIA's settings. In production pin the base by its digest.
ARG BASE_IMAGE=rayproject/ray:2.60.0-py311-gpu

# hadolint ignore=DL3006
FROM ${BASE_IMAGE} AS build
# hadolint ignore=DL3002
USER 0
SHELL ["/bin/bash", "-o", "pipefail", "-c"]
# FFCV is compiled here; which Debian or Ubuntu this is decides the versions.
# hadolint ignore=DL3008
RUN apt-get update \
    && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends \
       g++ pkg-config libopencv-dev libturbojpeg0-dev python3-pip \
    && rm -rf /var/lib/apt/lists/*
WORKDIR /build
COPY requirements.lock ./
RUN python -m venv /opt/distrib \
    && awk '/^[^ #]/ { mine = /^uv==/ } mine' requirements.lock > uv.lock \
    && /opt/distrib/bin/pip install --no-cache-dir --require-hashes -r uv.lock \
    && /opt/distrib/bin/uv pip sync --no-cache --require-hashes --compile-bytecode --python /opt/distrib/bin/python requirements.lock
COPY pyproject.toml README.md LICENSE ./
COPY distrib ./distrib
RUN /opt/distrib/bin/uv pip install --no-cache --no-deps --compile-bytecode --python /opt/distrib/bin/python . \
    && find /opt/distrib -name '_libffcv*.so' -exec ldd {} + | awk '/=> \// { print $3 }' | xargs -n 1 readlink -f \
       | { xargs dpkg -S 2>/dev/null || true; } | cut -d: -f1 | sort -u > /opt/distrib/system-packages \
    && test -s /opt/distrib/system-packages

# hadolint ignore=DL3006
FROM ${BASE_IMAGE}
LABEL org.opencontainers.image.title="distrib" \
      org.opencontainers.image.description="Distributed training of image classifiers that withstand adversarial attack" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="0.2.0"
USER 0
COPY --from=build /opt/distrib /opt/distrib
# What FFCV was linked against, found out above, and OpenCV's Python package; KubeRay's older probes call wget.
# hadolint ignore=DL3008,SC2046
RUN apt-get update \
    && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends \
       wget libgl1 libglib2.0-0 $(cat /opt/distrib/system-packages) \
    && rm -rf /var/lib/apt/lists/*
ENV PATH=/opt/distrib/bin:$PATH \
    RAY_USAGE_STATS_ENABLED=0 \
    MLFLOW_DISABLE_TELEMETRY=true
WORKDIR /tmp
USER 1000
RUN python -c "import cv2, ffcv.fields, ffcv.loader, ray, mlflow, distrib"
