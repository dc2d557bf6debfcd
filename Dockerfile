# For a CPU:  docker build -t kits-unet3d .
# For NVIDIA: docker build -t kits-unet3d --build-arg TORCH_INDEX= .
# For MLU:    docker build -t kits-unet3d --build-arg BASE=path/to/cambricon/pytorch:tag \
#                 --build-arg PYTHON_BIN=/torch/venv3/pytorch/bin .
# BASE brings torch and what makes its accelerator known to it, or nothing but Python; both are kept as they are.
ARG BASE=python:3.11-slim
FROM ${BASE}

# Where the base image has the Python that its torch is in.
ARG PYTHON_BIN=/usr/local/bin
# Where torch comes from if the base image has none: builds for a CPU, or, if empty, PyPI's, which are for NVIDIA's GPUs.
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
ENV PATH=${PYTHON_BIN}:${PATH}
WORKDIR /opt/kits_unet3d
COPY . .
RUN bash scripts/install.sh figures
RUN useradd --create-home --uid 10001 kits && mkdir -p /data /checkpoints && chown kits /data /checkpoints
USER 10001
ENV PYTORCH_TRAIN_DATASET=/data PYTORCH_TRAIN_CHECKPOINT=/checkpoints
# MONAI and torch ask for the user's name, which a caller's number (`docker run --user`) has none of in here.
ENV USER=kits
VOLUME ["/data", "/checkpoints"]
CMD ["kits-unet3d", "--help"]
