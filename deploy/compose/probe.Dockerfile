# The probe, as it runs on a branch router. Build it from the repository's root:
#
#   docker build -f deploy/compose/probe.Dockerfile -t wanscope/probe .
#
# Nothing here needs BuildKit. The final image is distroless/cc with the Node binary of the build stage, stripped: it
# has no shell and no package manager, it is smaller than a Node base image, and the Node that runs the native module
# is the one that it was built for.

# Both can be pinned by digest: --build-arg BUILD_IMAGE=node:24-bookworm@sha256:...
ARG BUILD_IMAGE=node:24-bookworm
ARG RUN_IMAGE=gcr.io/distroless/cc-debian12

FROM ${BUILD_IMAGE} AS dependencies
WORKDIR /app
COPY package.json package-lock.json .npmrc ./
COPY shared/package.json shared/
COPY probe/package.json probe/
COPY collector/package.json collector/
COPY lab/package.json lab/
# The packet engine is built by the installation.
COPY probe/native probe/native
RUN npm ci --omit=dev --workspace=@wanscope/shared --workspace=@wanscope/probe --loglevel=error
# Of all packages only raw-socket stays one, and of it the compiled module and its wrapper; the others are in the bundle.
RUN mkdir -p /out/app/node_modules/raw-socket/build/Release \
 && cp node_modules/raw-socket/index.js node_modules/raw-socket/package.json /out/app/node_modules/raw-socket/ \
 && strip -o /out/app/node_modules/raw-socket/build/Release/raw.node node_modules/raw-socket/build/Release/raw.node \
 && strip probe/native/build/engine.node \
 && strip -o /tmp/node /usr/local/bin/node

FROM ${BUILD_IMAGE} AS build
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
# With the packet engine and the flags of the entry point, for which the code cache is made.
COPY --from=dependencies /app/probe/native/build/engine.node probe/native/build/
RUN node_modules/.bin/tsc -b probe \
 && node probe/bundle.mjs --no-opt --no-sparkplug \
 && mkdir -p /out/app/probe /out/state/wan-probe \
 && cp -r probe/package.json probe/bundle /out/app/probe/

FROM ${RUN_IMAGE}
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
COPY --from=dependencies /out/app /app
COPY --from=build /out/app /app
COPY --from=dependencies /app/probe/native/build/engine.node /app/probe/native/build/
COPY --from=build --chown=65534:65534 /out/state/ /var/lib/
# Root only to open raw sockets and low ports: the program then becomes 65534 for good.
USER 0:0
# UDP (STAMP), TCP and HTTP reflectors.
EXPOSE 862/udp 8620/tcp 8621/tcp
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=30s --timeout=5s --start-period=10s --retries=3 \
  CMD ["/usr/local/bin/node", "/app/probe/bundle/main.js", "--healthcheck"]
# As docs/router.md says, and with two compilers less, which Node 24 does not miss.
ENTRYPOINT ["/usr/local/bin/node", "--max-semi-space-size=1", "--single-threaded", "--optimize-for-size", "--no-opt", \
  "--no-sparkplug", "/app/probe/bundle/main.js"]
