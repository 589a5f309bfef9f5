# The images of Ahoi. They contain release binaries from dist/, where e2e/cluster/images copies them.
#   docker build --target ahoi .
#   docker build --target pgbouncer .
# The containers need no root, no shell and no writable root file system.

# All controllers. The command of a Deployment names one of them.
FROM debian:trixie-slim AS ahoi
COPY dist/controllers/ /usr/local/bin/
USER 65532:65532
CMD []

# A separate stage, so that a change of the code does not install Debian packages again.
#
# Only pgbouncer comes from the next Debian release: that of trixie lacks the fixes of 1.26.0 and 1.26.1 (docs/fleets.md). Its libraries
# are those of trixie. The build fails if pgbouncer is older than PGBOUNCER_AT_LEAST, so an outdated package list (Check-Valid-Until: no)
# does no harm.
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

# pgbouncer and its agent; each pod of a fleet runs both.
FROM pgbouncer-base AS pgbouncer
COPY dist/ahoi-pgbouncer-agent /usr/local/bin/
USER 65532:65532
CMD []
