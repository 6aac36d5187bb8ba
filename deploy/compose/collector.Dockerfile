# The collector. Build it from the repository's root:
#
#   docker build -f deploy/compose/collector.Dockerfile -t wanscope/collector .
#
# Nothing here needs BuildKit. The final image is distroless/cc with the Node binary of the build stage, stripped: it
# has no shell and no package manager, and it is smaller than a Node base image.

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
RUN npm ci --omit=dev --workspace=@wanscope/shared --workspace=@wanscope/collector --loglevel=error
RUN find node_modules -type f \( -name '*.md' -o -name '*.map' -o -name '*.ts' -o -name '*.cts' -o -name '*.mts' \) -delete \
 && find node_modules -type d \( -name test -o -name tests -o -name benchmark -o -name benchmarks -o -name examples -o -name .github \) \
      -prune -exec rm -r {} + \
 && find node_modules -name '*.test.*' -delete \
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
COPY collector collector
RUN node_modules/.bin/tsc -b collector \
 && for workspace in shared collector; do \
      mkdir -p /out/app/$workspace && cp -r $workspace/package.json $workspace/dist /out/app/$workspace/; \
    done \
 && if [ -d collector/ui ]; then cp -r collector/ui /out/app/collector/; fi \
 && find /out/app -type f \( -name '*.map' -o -name '*.ts' -o -name '*.tsbuildinfo' -o -name .tsbuildinfo \) -delete \
 && mkdir -p /out/state/wan-collector

FROM ${RUN_IMAGE}
ARG VERSION=dev
ARG REVISION=unknown
LABEL org.opencontainers.image.title="wanscope collector" \
      org.opencontainers.image.description="Collects what the probes measure, plans what they send, exposes it to Prometheus." \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
ENV NODE_ENV=production \
    WAN_REVISION="${REVISION}"
COPY --from=dependencies /tmp/node /usr/local/bin/node
COPY --from=dependencies /app/node_modules /app/node_modules
COPY --from=build /out/app /app
COPY --from=build --chown=65534:65534 /out/state/ /var/lib/
USER 65534:65534
EXPOSE 9479/tcp
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=30s --timeout=5s --start-period=10s --retries=3 \
  CMD ["/usr/local/bin/node", "/app/collector/dist/main.js", "--healthcheck"]
ENTRYPOINT ["/usr/local/bin/node", "/app/collector/dist/main.js"]
CMD ["--config", "/etc/wanscope/wanscope.yaml"]
