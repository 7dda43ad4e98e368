# Serves bundles without PyTorch. A key is asked of clients, since the port is open to others:
#   docker build -t agentzoo-serve .
# It ends by itself within 16 s at most (--drain, --deadline, 1 s); docker waits 10 s unless told otherwise.
#   docker run --stop-timeout 20 -p 8000:8000 -e AGENTZOO_API_KEY=... -v ./walker:/models/walker:ro agentzoo-serve /models/walker
FROM python:3.12-slim AS build
WORKDIR /src
COPY pyproject.toml constraints.txt README.md LICENSE CHANGELOG.md ./
COPY agentzoo agentzoo
RUN python -m venv /opt/agentzoo \
 && /opt/agentzoo/bin/pip install --no-cache-dir -c constraints.txt ".[onnx,serve]"

FROM python:3.12-slim
# process 1 gets no signal that it has no handler for, so one that passes them on stands before Python
RUN apt-get update \
 && apt-get install -y --no-install-recommends tini \
 && rm -rf /var/lib/apt/lists/*
RUN useradd --create-home --uid 10001 agentzoo
COPY --from=build /opt/agentzoo /opt/agentzoo
USER agentzoo
ENV PATH=/opt/agentzoo/bin:$PATH OMP_NUM_THREADS=1 PYTHONUNBUFFERED=1
EXPOSE 8000
# ready, not merely alive: every model is loaded, warm and agrees with its recording
HEALTHCHECK --interval=10s --timeout=3s --start-period=60s \
  CMD ["python", "-c", "import urllib.request as r; r.urlopen('http://127.0.0.1:8000/v2/health/ready', timeout=2)"]
STOPSIGNAL SIGTERM
ENTRYPOINT ["tini", "--", "agentzoo", "serve", "--host", "0.0.0.0"]
