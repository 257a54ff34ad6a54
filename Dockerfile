# Ganvas with all extras that users need, for CPUs or for NVIDIA GPUs. docs/guide/install.md shows how to use it.
FROM python:3.12-slim

ARG DEVICE=cpu
ARG CPU_INDEX=https://download.pytorch.org/whl/cpu
ENV PIP_NO_CACHE_DIR=1 GANVAS_CACHE=/images/.cache/ganvas

WORKDIR /opt/ganvas
COPY pyproject.toml constraints.txt README.md LICENSE NOTICE ./
COPY src src
# PyPI has PyTorch with CUDA. The builds for CPUs have a version such as 2.13.0+cpu, which pip takes as the newer one.
RUN if [ "$DEVICE" = cpu ]; then export PIP_EXTRA_INDEX_URL="$CPU_INDEX"; fi \
    && pip install -c constraints.txt '.[video,track,medical,judge,export,studio,hub,c2pa]'

# The user mounts a folder here for images, runs and packs.
WORKDIR /images
EXPOSE 7860
ENTRYPOINT ["ganvas"]
CMD ["--help"]
