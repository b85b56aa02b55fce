# larder as an image: `docker build -t larder .`, or `buildah bud -t larder .`.
# How to run it, and what it must own: docs/deploy.md.

# Debian of one release for both: the binary links the C library of the stage that built it.
ARG RUST=rust:1.95-slim-bookworm
ARG BASE=debian:bookworm-slim

FROM ${RUST} AS build
WORKDIR /src
# What is built against, in a layer of its own: it is built again when a manifest changes, and not when the code does.
# The workspace is only read if all of its targets are there, so each is an empty program until the code comes.
COPY Cargo.toml Cargo.lock ./
COPY jobs/Cargo.toml jobs/
COPY tests/support/Cargo.toml tests/support/
COPY tests/fake-nvml/Cargo.toml tests/fake-nvml/
RUN --mount=type=cache,target=/usr/local/cargo/registry \
    for target in $(sed -n 's/^path = "\(.*\.rs\)"$/\1/p' Cargo.toml) \
        jobs/src/lib.rs tests/support/src/lib.rs tests/fake-nvml/src/lib.rs; do \
        mkdir -p "$(dirname "$target")" && echo 'fn main() {}' > "$target"; \
    done \
    && cargo build --release --locked --features otlp --bin larder \
    && cargo clean --release -p larder -p larder-jobs
COPY config config
COPY jobs jobs
COPY src src
RUN --mount=type=cache,target=/usr/local/cargo/registry \
    cargo build --release --locked --features otlp --bin larder && cp target/release/larder /larder

FROM ${BASE} AS runtime
# The user that larder runs as: the owner of the hub cache, see docs/deploy.md.
ARG UID=1000
ARG GID=1000
# The authorities that hubs and mirrors are believed on; SSL_CERT_FILE names others.
COPY --from=build /etc/ssl/certs/ca-certificates.crt /etc/ssl/certs/
COPY --from=build --chmod=0755 /larder /usr/local/bin/larder
# A new volume takes its owner from the folder that it covers.
RUN install -d -o "${UID}" -g "${GID}" -m 0755 /models /models/hub \
    && install -d -o "${UID}" -g "${GID}" -m 0700 /var/lib/larder
# Both give way to the configuration. The GPU's library comes from the host with its driver, and only the part that reads.
ENV HF_HUB_CACHE=/models/hub \
    XDG_STATE_HOME=/var/lib \
    NVIDIA_DRIVER_CAPABILITIES=utility
LABEL org.opencontainers.image.title="larder" \
      org.opencontainers.image.description="Keeps GPU hosts stocked with models" \
      org.opencontainers.image.licenses="Apache-2.0 OR MIT"
USER ${UID}:${GID}
EXPOSE 7717
HEALTHCHECK --interval=30s --timeout=5s --start-period=60s --retries=3 CMD ["larder", "doctor", "--ready"]
ENTRYPOINT ["larder"]
CMD ["serve"]
