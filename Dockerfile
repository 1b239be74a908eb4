# One image for web, worker, lookups, beat, poller and the migrations.
FROM python:3.11-slim-bookworm AS build
RUN pip install --no-cache-dir uv
COPY requirements.txt /build/requirements.txt
RUN uv venv /opt/datamantri && \
    uv pip install --no-cache --compile-bytecode --python /opt/datamantri/bin/python -r /build/requirements.txt

FROM python:3.11-slim-bookworm
RUN useradd --system --uid 10001 --home-dir /app --shell /usr/sbin/nologin datamantri
ENV PATH=/opt/datamantri/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
WORKDIR /app
COPY --from=build /opt/datamantri /opt/datamantri
COPY manage.py ./
COPY connectors connectors
COPY pipelines pipelines
COPY runs runs
COPY datamantri datamantri
COPY templates templates
COPY static static
USER datamantri
EXPOSE 8000
CMD ["python", "-m", "datamantri.processes", "web"]
