# Runs an exported detector on images and videos, without torch or a compiler.
#   docker build -t ghost-det .
#   docker run --rm --network none -v "$PWD:/data" --user "$(id -u):$(id -g)" ghost-det detector.xml images -o found
FROM python:3.12-slim-bookworm

# The versions that were tested together, including openvino and onnxruntime.
COPY constraints/default.txt /opt/ghost_det/constraints.txt
COPY pyproject.toml README.md LICENSE ghost_det_main.py /opt/ghost_det/source/
COPY ghost_det /opt/ghost_det/source/ghost_det
RUN pip install --no-cache-dir --disable-pip-version-check \
        -c /opt/ghost_det/constraints.txt "/opt/ghost_det/source[runtime]" \
    && rm -r /opt/ghost_det/source \
    && useradd --create-home --uid 1000 ghost

USER 1000
WORKDIR /data
ENTRYPOINT ["ghost-det", "detect"]
