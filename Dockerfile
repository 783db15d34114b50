# A thin wrapper of the steps `make install` runs, with the CUDA build of torch.
# Build:  docker build -t pseudomri .
# Run:    docker run --gpus all -p 11112:11112 -v pseudomri:/var/lib/pseudomri pseudomri
FROM python:3.11.13-slim-bookworm

ENV PIP_NO_CACHE_DIR=1 \
    PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    PSEUDOMRI_NODE__DATA_FOLDER=/var/lib/pseudomri

RUN groupadd --system --gid 10001 pseudomri \
 && useradd --system --uid 10001 --gid pseudomri --home-dir /var/lib/pseudomri --create-home pseudomri

WORKDIR /opt/pseudomri
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY config ./config
COPY pipeline ./pipeline
COPY node ./node
RUN python -m pip install -c constraints.txt torch \
 && python -m pip install -c constraints.txt .

USER 10001:10001
VOLUME /var/lib/pseudomri
EXPOSE 11112
# Acceptors, worker and web role by /health; a C-ECHO of nobody's would be refused where senders are
# named. The first start imports torch. With a file for --config, name it here too.
HEALTHCHECK --interval=30s --timeout=10s --start-period=120s \
    CMD ["python", "-m", "node.web.probe"]
ENTRYPOINT ["pseudomri"]
CMD ["serve"]
