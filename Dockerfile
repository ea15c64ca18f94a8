# Dockerfile - the service as an image: built on Debian 12, run as nobody on a read-only root.
#
#   docker build -t taca:0.1.0 --build-arg REVISION=$(git rev-parse --short=12 HEAD) .
#   docker run --rm --read-only -p 127.0.0.1:8080:8080 -e TACA_INSECURE=1 taca:0.1.0
#   docker run ... -v jobs:/var/lib/taca -e TACA_JOB_STORE=sqlite:/var/lib/taca/jobs.db taca:0.1.0
#   docker run ... -v /srv/models:/models:ro -e TACA_MODEL=/models/stable-diffusion-3.5-medium taca:0.1.0
#
# With NVIDIA's container runtime, the CUDA backend in it (the compiler comes from PyPI):
#   docker build --target cuda -t taca-cuda:0.1.0 .
#   docker run --gpus 1 -e TACA_DEVICES=cuda ... taca-cuda:0.1.0
#
# TACA_INSECURE is not set here on purpose. The image listens on every address of its container,
# and no API keys are mounted: who starts it says that only trusted clients can reach it.
# Stop it with `docker stop -t 80`: it drains for up to 60 s, docker's own patience is 10 s.

# any Debian 12 will do, by digest where builds must repeat: --build-arg BASE=debian@sha256:...
ARG BASE=debian:bookworm-slim

FROM ${BASE} AS build
WORKDIR /src
COPY tools/packages.sh tools/
RUN ["/bin/bash", "-euc", ". tools/packages.sh && need_packages 'build taca' \"${BUILD_PACKAGES[@]}\""]
COPY . .
ARG REVISION=
RUN cmake -S . -B build -G Ninja -DCMAKE_BUILD_TYPE=RelWithDebInfo -DBUILD_TESTING=OFF \
        -DCMAKE_INSTALL_PREFIX=/usr/local -DTACA_COMMIT="$REVISION" \
    && cmake --build build \
    && DESTDIR=/out cmake --install build --strip \
    && rm -rf /out/usr/local/lib

# The module beside the program, and cuBLASLt beside the module.
FROM build AS build-cuda
RUN ["/bin/bash", "-euc", ". tools/packages.sh && . tools/cuda.sh && need_cuda && \
    cmake -S . -B build/module -G Ninja -DCMAKE_BUILD_TYPE=RelWithDebInfo -DBUILD_TESTING=OFF \
        -DTACA_CUDA=ON -DCMAKE_INSTALL_PREFIX=/usr/local && \
    cmake --build build/module --target taca_cuda && \
    install -D --strip build/module/kernels/cuda/libtaca_cuda.so /out-cuda/usr/local/lib/taca/libtaca_cuda.so && \
    cp -L build/cuda/nvidia/cu13/lib/libcublasLt.so.13 /out-cuda/usr/local/lib/taca/"]

FROM ${BASE} AS runtime
# Only what the program links to. Nothing in here may gain rights, and what a package manager
# leaves behind (lists, logs, caches with a time in them) goes.
RUN apt-get update -qq \
    && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends \
        libdnnl2 libgomp1 libjansson4 libjpeg62-turbo libmicrohttpd12 libpng16-16 libsqlite3-0 \
        libutf8proc2 libuv1 \
    && find / -xdev -type f -perm /6000 -exec chmod a-s {} + \
    && rm -rf /var/lib/apt/lists/* /var/cache/* /var/log/* /tmp/* \
    && mkdir /models && install -d -o 65532 -g 65532 -m 0700 /var/lib/taca
COPY --from=build /out/ /

ARG VERSION=0.1.0
ARG REVISION=
LABEL org.opencontainers.image.title="taca" \
      org.opencontainers.image.description="Image generation over HTTP with multimodal diffusion transformers and TACA" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.licenses="Apache-2.0"

# Inside a container loopback is nobody; prompts stay out of the log unless TACA_LOG_PROMPTS=1.
ENV TACA_HOST=0.0.0.0 \
    TACA_ADMIN_LISTEN=0.0.0.0:8081 \
    TACA_LOG_FORMAT=json
WORKDIR /
USER 65532:65532
# requests; probes and /metrics
EXPOSE 8080 8081
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=4s --start-period=60s --retries=3 \
    CMD ["/usr/local/bin/taca", "healthcheck"]
ENTRYPOINT ["/usr/local/bin/taca"]
CMD ["serve"]

FROM runtime AS cuda
COPY --from=build-cuda /out-cuda/ /
ENV NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility

# what is built when no target is named
FROM runtime
