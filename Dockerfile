# syntax=docker/dockerfile:1
# docker build -t pd_jax .                               on CPUs
# docker build -t pd_jax:cuda --build-arg EXTRA=cuda .   on GPUs, with NVIDIA's driver and container toolkit on the host
# docker run --rm -v "$PWD:/work" --user "$(id -u):$(id -g)" pd_jax distill --config cartpole
ARG PYTHON=3.11

FROM python:${PYTHON}-slim-bookworm AS build
# Of the extras in pyproject.toml, such as cuda or cuda,export.
ARG EXTRA=""
WORKDIR /src
RUN python -m venv /opt/pd-jax
COPY pyproject.toml requirements.lock README.md LICENSE ./
COPY docs/make_package_readme.py ./docs/
COPY configs ./configs
COPY pd_jax ./pd_jax
ENV PIP_CACHE_DIR=/var/cache/pip
RUN --mount=type=cache,target=/var/cache/pip \
    /opt/pd-jax/bin/pip install -q -c requirements.lock ".${EXTRA:+[$EXTRA]}"

FROM python:${PYTHON}-slim-bookworm
RUN useradd --uid 1000 --create-home --shell /bin/bash student \
    && install -d -o student -m 1777 /work /cache
COPY --from=build /opt/pd-jax /opt/pd-jax
# /cache holds compiled programs: a volume there has the next container start faster. HOME is for users of other numbers.
ENV PATH=/opt/pd-jax/bin:$PATH \
    HOME=/tmp \
    PD_JAX_COMPILATION_CACHE=/cache
USER 1000:1000
WORKDIR /work
ENTRYPOINT ["pd-jax"]
CMD ["--help"]
