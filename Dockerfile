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
#
# pgbouncer alone comes from the next Debian: the one in trixie has not got the fixes of 1.26.0 and 1.26.1 (docs/fleets.md). Its
# libraries are trixie's. The build fails where the package is older than the oldest that is safe, wherever it came from; that
# is also why an outdated list of the next Debian's packages is good enough.
FROM debian:trixie-slim AS pgbouncer-base
ARG PGBOUNCER_AT_LEAST=1.26.1-1
RUN apt-get update -qq && mirror=$(apt-get indextargets --format '$(SITE)' 'Codename: trixie' | head -n 1) \
 && printf '%s\n' 'Types: deb' "URIs: $mirror" 'Suites: forky' 'Components: main' \
      'Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg' 'Check-Valid-Until: no' \
      >/etc/apt/sources.list.d/pgbouncer.sources \
 && printf '%s\n' 'Package: *' 'Pin: release n=forky' 'Pin-Priority: -1' '' \
      'Package: pgbouncer' 'Pin: release n=forky' 'Pin-Priority: 990' >/etc/apt/preferences.d/pgbouncer \
 && apt-get update -qq \
 && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends pgbouncer \
 && installed=$(dpkg-query -W -f '${Version}' pgbouncer) \
 && { dpkg --compare-versions "$installed" ge "$PGBOUNCER_AT_LEAST" \
      || { echo "pgbouncer $installed lacks security fixes: $PGBOUNCER_AT_LEAST or newer is needed" >&2; exit 1; }; } \
 && rm -rf /var/lib/apt/lists/* /var/cache/apt/* /var/log/*

# pgbouncer and the agent that tells it what to serve; a pod runs both.
FROM pgbouncer-base AS pgbouncer
COPY dist/ahoi-pgbouncer-agent /usr/local/bin/
USER 65532:65532
CMD []
