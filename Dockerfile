# The suite's images. Binaries come from dist/, where e2e/cluster/images or any other release build
# puts them: what is compiled once need not be compiled again for each image.
#   docker build --target ahoi .
#   docker build --target pgbouncer .
# Nothing here needs root, a shell or a writable root file system at run time.

# Every controller; a Deployment names the one it runs.
FROM debian:trixie-slim AS ahoi
COPY dist/ahoi-customer dist/ahoi-namespace dist/ahoi-database dist/ahoi-pgbouncer dist/ahoi-scheduler /usr/local/bin/
USER 65532:65532
CMD []

# A stage of its own, so that new code does not install Debian packages again.
FROM debian:trixie-slim AS pgbouncer-base
RUN apt-get update -qq \
 && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends pgbouncer \
 && rm -rf /var/lib/apt/lists/* /var/cache/apt/* /var/log/*

# pgbouncer and the agent that tells it what to serve; a pod runs both.
FROM pgbouncer-base AS pgbouncer
COPY dist/ahoi-pgbouncer-agent /usr/local/bin/
USER 65532:65532
CMD []
