# The probe, as it runs on a branch router. Build it from the repository's root:
#
#   docker build -f deploy/compose/probe.Dockerfile -t wanscope/probe .
#
# Nothing here needs BuildKit. The final image is distroless/cc with the Node binary of the build stage, stripped: it
# has no shell and no package manager, it is smaller than a Node base image, and the Node that runs the native module
# is the one that it was built for.

FROM node:24-bookworm AS dependencies
WORKDIR /app
COPY package.json package-lock.json .npmrc ./
COPY shared/package.json shared/
COPY probe/package.json probe/
COPY collector/package.json collector/
COPY lab/package.json lab/
# The packet engine is built by the installation.
COPY probe/native probe/native
RUN npm ci --omit=dev --workspace=@wanscope/shared --workspace=@wanscope/probe --loglevel=error
# What only builds or describes the modules stays behind; of raw-socket, the compiled module and its wrapper run.
RUN find node_modules/raw-socket -mindepth 1 -maxdepth 1 ! -name build ! -name index.js ! -name package.json -exec rm -r {} + \
 && mkdir /tmp/addon && mv node_modules/raw-socket/build/Release/raw.node /tmp/addon/ \
 && rm -r node_modules/raw-socket/build node_modules/nan \
 && mkdir -p node_modules/raw-socket/build/Release && mv /tmp/addon/raw.node node_modules/raw-socket/build/Release/ \
 && find node_modules -type f \( -name '*.md' -o -name '*.map' -o -name '*.ts' -o -name '*.cts' -o -name '*.mts' \) -delete \
 && find node_modules -type d \( -name test -o -name tests -o -name benchmark -o -name benchmarks -o -name examples -o -name .github \) \
      -prune -exec rm -r {} + \
 && find node_modules -name '*.test.*' -delete \
 && strip node_modules/raw-socket/build/Release/raw.node probe/native/build/engine.node \
 && strip -o /tmp/node /usr/local/bin/node

FROM node:24-bookworm AS build
WORKDIR /app
COPY package.json package-lock.json .npmrc ./
COPY shared/package.json shared/
COPY probe/package.json probe/
COPY collector/package.json collector/
COPY lab/package.json lab/
RUN npm ci --ignore-scripts --loglevel=error
COPY tsconfig.base.json ./
COPY shared shared
COPY probe probe
RUN node_modules/.bin/tsc -b probe \
 && for workspace in shared probe; do \
      mkdir -p /out/app/$workspace && cp -r $workspace/package.json $workspace/dist /out/app/$workspace/; \
    done \
 && find /out/app -type f \( -name '*.map' -o -name '*.ts' -o -name '*.tsbuildinfo' -o -name .tsbuildinfo \) -delete \
 && mkdir -p /out/state/wan-probe

FROM gcr.io/distroless/cc-debian12
ARG VERSION=dev
ARG REVISION=unknown
LABEL org.opencontainers.image.title="wanscope probe" \
      org.opencontainers.image.description="Measures the paths from one branch to the others." \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
ENV NODE_ENV=production \
    WAN_STATE_DIR=/var/lib/wan-probe \
    WAN_METRICS_LISTEN=127.0.0.1:9480
COPY --from=dependencies /tmp/node /usr/local/bin/node
COPY --from=dependencies /app/node_modules /app/node_modules
COPY --from=build /out/app /app
COPY --from=dependencies /app/probe/native/build/engine.node /app/probe/native/build/
COPY --from=build --chown=65534:65534 /out/state/ /var/lib/
# Root only to open raw sockets and low ports: the program then becomes 65534 for good.
USER 0:0
# UDP (STAMP), TCP and HTTP reflectors.
EXPOSE 862/udp 8620/tcp 8621/tcp
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=30s --timeout=5s --start-period=10s --retries=3 \
  CMD ["/usr/local/bin/node", "/app/probe/dist/main.js", "--healthcheck"]
ENTRYPOINT ["/usr/local/bin/node", "/app/probe/dist/main.js"]
