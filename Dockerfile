# One image for every role: noded with its PostgreSQL, the manager, the proxy. docker/launch.py is its program.
#
# BASE may be the official image (the default), any other Debian or Ubuntu with PostgreSQL 15 to 18, or one without: then the
# bundled PostgreSQL 18 goes in. Python 3.11 or newer is taken from BASE, or from its distribution's packages.
# If docker/wheels holds wheels (docker/fetch-wheels puts them there), nothing is downloaded from any index.
ARG BASE=postgres:17-bookworm

# 1. The programs, in a virtual environment. Whatever building takes stays in this stage.
FROM ${BASE} AS build
LABEL endpointd.stage=build
USER root
COPY . /build
RUN sh /build/docker/build-programs

# 2. The root file system without what nobody needs at run time.
FROM ${BASE} AS root
LABEL endpointd.stage=root
USER root
COPY docker/slim-root /build/slim-root
RUN sh /build/slim-root
COPY --from=build /opt/endpointd /opt/endpointd

# 3. One layer of it, so that what was removed takes no room, and nothing of BASE's own entry point or volumes remains.
FROM scratch
COPY --from=root / /
RUN install -d -m 0700 -o endpointd -g endpointd \
    /var/lib/endpointd /run/endpointd /etc/endpointd/tls /etc/endpointd/tls-proxy
ENV PATH=/opt/endpointd/bin:/opt/postgresql/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
    LANG=C.UTF-8 \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    ENDPOINTD_API=http://127.0.0.1:6480 \
    ENDPOINTD_TOKEN_FILE=/run/endpointd/secrets/api-token
LABEL org.opencontainers.image.title="endpointd" \
      org.opencontainers.image.description="PostgreSQL cluster with a writer and a reader endpoint: node, manager and proxy" \
      org.opencontainers.image.version="0.1.0" \
      org.opencontainers.image.licenses="Apache-2.0"
USER endpointd
WORKDIR /var/lib/endpointd
VOLUME /var/lib/endpointd
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=2s --timeout=2s --start-period=60s --retries=5 CMD ["/opt/endpointd/bin/endpointd-healthcheck"]
ENTRYPOINT ["/opt/endpointd/bin/endpointd-launch"]
CMD ["--help"]
