# The page to draw digits on, and its HTTP interface, with the networks that come with the package.
#
#   docker build -t featherweight .
#   docker run --rm --read-only -p 8000:8000 featherweight              # then http://127.0.0.1:8000
#   docker run --rm --read-only -p 8000:8000 featherweight --model sprint
#
# Nothing is written while it runs, and nothing runs as root. There is no authentication: put it
# behind something that has, before it is open to a network.
FROM python:3.13-slim AS build
WORKDIR /source
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY src src
RUN python -m venv /opt/featherweight \
    && /opt/featherweight/bin/pip install --no-cache-dir -c constraints.txt '.[serve]'

FROM python:3.13-slim
COPY --from=build /opt/featherweight /opt/featherweight
ENV PATH=/opt/featherweight/bin:$PATH PYTHONDONTWRITEBYTECODE=1
USER 10001:10001
EXPOSE 8000
HEALTHCHECK --interval=30s --timeout=5s --start-period=20s \
    CMD ["python", "-c", "from urllib.request import urlopen; urlopen('http://127.0.0.1:8000/healthz', timeout=4)"]
ENTRYPOINT ["featherweight", "serve", "--host", "0.0.0.0"]
