"""Two other ways to serve a saved classifier, for benchmarks/serving.py.

    python benchmarks/serving_rivals.py plain FOLDER PORT --threads 4 --torch-threads 1
    python benchmarks/serving_rivals.py litserve FOLDER PORT --batch 16 --window 0.01 --torch-threads 2

plain: a FastAPI handler that calls the model in FastAPI's own pool of threads, of the size that is given. litserve: the
library LitServe, which batches. Both take {"text": "…"} and answer a label and probabilities."""

import argparse
import contextlib

import anyio.to_thread
import fastapi
import litserve
import torch
import uvicorn
from pydantic import BaseModel

from llm_course.serving.folder import loader_named


class Body(BaseModel):
    "What is asked"

    text: str


def answer_of(classifier: object, row: list[float]) -> dict:
    "A label and the probabilities"
    probabilities = dict(zip(classifier.labels, map(float, row), strict=True))
    return {"label": max(probabilities, key=probabilities.get), "probabilities": probabilities}


def serve_plainly(classifier: object, given: argparse.Namespace):
    "A handler that is no coroutine, so FastAPI runs it in a thread"
    @contextlib.asynccontextmanager
    async def limited(_):
        anyio.to_thread.current_default_thread_limiter().total_tokens = given.threads
        yield

    app = fastapi.FastAPI(lifespan=limited)

    @app.post("/classify")
    def classify(body: Body) -> dict:
        return answer_of(classifier, classifier.predict_proba([body.text])[0])

    uvicorn.run(app, host="127.0.0.1", port=given.port, log_level="error", access_log=False)


class Batched(litserve.LitAPI):
    "What LitServe calls, in a process of its own, to which this is pickled"

    def __init__(self, given: argparse.Namespace):
        super().__init__(max_batch_size=given.batch, batch_timeout=given.window, api_path="/classify")
        self.given = given

    def setup(self, device: str):
        torch.set_num_threads(self.given.torch_threads)
        self.classifier = loader_named(self.given.loader)(self.given.folder)

    def decode_request(self, request: dict) -> str:
        return request["text"]

    def predict(self, texts: list[str]) -> list[list[float]]:
        return self.classifier.predict_proba(list(texts)).tolist()

    def encode_response(self, output: list[float]) -> dict:
        return answer_of(self.classifier, output)


def serve_by_litserve(given: argparse.Namespace):
    "Processes with the model, batches of at most so many texts"
    server = litserve.LitServer(Batched(given), accelerator="cpu", workers_per_device=given.workers, timeout=120)
    server.run(host="127.0.0.1", port=given.port, generate_client_file=False, log_level="error", access_log=False)


def main():
    "Serve until killed"
    parser = argparse.ArgumentParser()
    parser.add_argument("way", choices=("plain", "litserve"))
    parser.add_argument("folder")
    parser.add_argument("port", type=int)
    parser.add_argument("--threads", type=int, default=40)
    parser.add_argument("--torch-threads", type=int, default=1)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--window", type=float, default=0.01)
    parser.add_argument("--loader", default="llm_course.models:TextClassifier.load")
    given = parser.parse_args()
    if given.way == "litserve":
        serve_by_litserve(given)
    else:
        torch.set_num_threads(given.torch_threads)
        serve_plainly(loader_named(given.loader)(given.folder), given)


if __name__ == "__main__":
    main()
