"""Serve: a classifier behind HTTP, with FastAPI
=============================================

Loads a file that ``sksmooth.save`` has written (or, without one, trains a small classifier and
saves it first) and answers batches of rows with labels and calibrated probabilities. Rows that
cannot be predicted are refused with what is wrong in which row.

Run it (needs the extra ``serve``)::

    python examples/serve.py --file net.sksmooth
    curl localhost:8000/predict -H 'content-type: application/json' -d '{"rows": [[0.1, ...]]}'
"""

import argparse
from pathlib import Path

import numpy as np

from sksmooth import LabelSmoothingClassifierCV, load, make_tabular, save


def make_app(classifier):
    """Make the service around a fitted classifier."""
    from fastapi import FastAPI, HTTPException
    from pydantic import BaseModel, Field, FiniteFloat

    n_features = classifier.n_features_in_
    app = FastAPI(title="sksmooth")

    class Rows(BaseModel):
        rows: list[list[FiniteFloat]] = Field(min_length=1, max_length=10_000)

    @app.get("/health")
    def health():
        return {"status": "ok", "n_features": n_features, "classes": classifier.classes_.tolist()}

    @app.post(
        "/predict"
    )  # a plain function: FastAPI runs it in a thread, and threads predict alike
    def predict(batch: Rows):
        for number, row in enumerate(batch.rows):
            if len(row) != n_features:
                raise HTTPException(
                    422, f"row {number} has {len(row)} columns, but {n_features} are expected"
                )
        probabilities = classifier.predict_proba(np.array(batch.rows))
        labels = classifier.classes_[probabilities.argmax(1)]
        return {"labels": labels.tolist(), "probabilities": probabilities.tolist()}

    return app


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--file", type=Path, default=Path("net.sksmooth"), help="the classifier")
    parser.add_argument("--port", type=int, default=8000, help="0: make the app, do not serve it")
    parser.add_argument(
        "--seed", type=int, default=0, help="of the classifier, where none is saved"
    )
    options = parser.parse_args(argv)
    if not options.file.exists():
        X, y = make_tabular(500, random_state=options.seed)
        save(LabelSmoothingClassifierCV(random_state=options.seed).fit(X, y), options.file)
        print(f"Trained a classifier and saved it as {options.file}.")
    app = make_app(load(options.file))
    if options.port:
        import uvicorn

        uvicorn.run(app, port=options.port)
    return app


if __name__ == "__main__":
    main()
