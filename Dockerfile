# The page, on a CPU: docker build -t mmjepa . && docker run -p 7860:7860 -v "$PWD/runs/demo:/model:ro" mmjepa
FROM python:3.11-slim
RUN pip install --no-cache-dir uv
WORKDIR /opt/mmjepa
COPY . .
# The CPU build of torch: the default one brings gigabytes of CUDA.
RUN uv pip install --system --no-cache --torch-backend cpu -c constraints.txt '.[app]'
RUN useradd --create-home mmjepa
USER mmjepa
WORKDIR /home/mmjepa
EXPOSE 7860
CMD ["mmjepa", "app", "/model", "--host", "0.0.0.0", "--port", "7860"]
