# The page of app.py in a container:
#   docker build -t anime-person .
#   docker run --rm -p 127.0.0.1:7860:7860 anime-person       # then open http://127.0.0.1:7860/
# Your own models: -v "$PWD/model_ckpt:/app/model_ckpt:ro". NVIDIA GPUs: --gpus all. Another script:
# its command behind the image's name, such as python train.py --demo.
FROM python:3.12-slim

# Where else pip may find PyTorch: --build-arg TORCH_INDEX=... with the index of CPU wheels (see
# "Start Locally" on pytorch.org) saves gigabytes. Without it pip takes the default wheels, which on
# x86 Linux have CUDA.
ARG TORCH_INDEX=""

WORKDIR /app
COPY requirements.txt requirements-app.txt ./
RUN PIP_EXTRA_INDEX_URL="$TORCH_INDEX" pip install --no-cache-dir -r requirements-app.txt
COPY . .

RUN useradd --create-home user && chown user . model_ckpt save_image test_image
USER user
EXPOSE 7860
HEALTHCHECK --start-period=60s CMD ["python", "-c", "import urllib.request as r; r.urlopen('http://127.0.0.1:7860/state')"]
CMD ["python", "app.py", "--host", "0.0.0.0"]
