# For a CPU:  docker build -t kits-unet3d .
# For MLU:    docker build -t kits-unet3d --build-arg BASE=path/to/cambricon/pytorch:tag .
ARG BASE=python:3.11-slim
FROM ${BASE}

WORKDIR /opt/kits_unet3d
COPY . .
# What the base image brings of torch and its accelerator package stays as it is; all else is pinned.
RUN python -m pip freeze | grep -iE '^(torch|torch[-_]mlu)(==| @)' > /tmp/kept.txt || true; \
    if [ -s /tmp/kept.txt ]; then (grep -vE '^torch==' constraints.txt; cat /tmp/kept.txt) > /tmp/pins.txt; else cp constraints.txt /tmp/pins.txt; fi; \
    python -m pip install --no-cache-dir -c /tmp/pins.txt ".[figures]" \
    && rm /tmp/kept.txt /tmp/pins.txt
RUN useradd --create-home kits
USER kits
ENV PYTORCH_TRAIN_DATASET=/data
VOLUME ["/data", "/checkpoints"]
ENTRYPOINT ["kits-unet3d"]
CMD ["--help"]
