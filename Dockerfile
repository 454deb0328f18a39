# distillkit in a container: docs/how-to/container.md says how to build and use it.
ARG PYTHON=3.12

FROM python:${PYTHON}-slim AS build
# The index of a build of torch: a CPU's is small, CUDA's is chosen by version. Empty: the default
# index alone, whose build for Linux runs on NVIDIA GPUs and on CPUs.
ARG TORCH_INDEX=
# Folders of what is installed.
ARG PROJECTS=". ./plugins/lowlight ./plugins/masks ./plugins/mini ./plugins/photo ./plugins/spandrel ./plugins/superres ./plugins/video"
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
RUN python -m venv /opt/distillkit
ENV PATH=/opt/distillkit/bin:$PATH
WORKDIR /source
COPY constraints.txt ./
# torch first and alone: this layer stays when sources change. Its index is an extra one, as it need
# not have the pinned versions of what torch requires; of torch it has the same version with a label
# (+cpu), which pip takes for newer.
RUN pip install -c constraints.txt ${TORCH_INDEX:+--extra-index-url "$TORCH_INDEX"} torch torchvision
COPY . .
# hadolint ignore=SC2086
RUN pip install -c constraints.txt $PROJECTS

# For .devcontainer/: an image with git and make, in which `make setup` installs the rest.
FROM python:${PYTHON} AS development
RUN useradd --create-home --uid 1000 developer
USER developer

# For servers that only restore, with an exported student; without torch.
FROM python:${PYTHON}-slim AS runtime
COPY constraints.txt /source/
COPY runtime /source/runtime
RUN pip install --no-cache-dir -c /source/constraints.txt /source/runtime \
    && useradd --create-home --uid 1000 distillkit \
    && install --directory --owner distillkit /work
USER distillkit
WORKDIR /work
ENTRYPOINT ["distillkit-restore"]
CMD ["--help"]

FROM python:${PYTHON}-slim
# Anybody may write to the home: files in a mounted folder belong to who runs the container with
# `--user`, and that user has no home here.
RUN useradd --create-home --uid 1000 distillkit \
    && chmod 1777 /home/distillkit \
    && install --directory --owner distillkit /work
COPY --from=build /opt/distillkit /opt/distillkit
ENV PATH=/opt/distillkit/bin:$PATH HOME=/home/distillkit USER=distillkit PYTHONUNBUFFERED=1
USER distillkit
WORKDIR /work
ENTRYPOINT ["distillkit"]
CMD ["--help"]
