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
from typing import Annotated

import numpy as np

from sksmooth import LabelSmoothingClassifierCV, load, make_tabular, save

LARGEST = float(np.finfo(np.float32).max)  # that a net computes with


def make_app(classifier):
    """Make the service around a fitted classifier."""
    from fastapi import FastAPI, HTTPException
    from fastapi.exceptions import RequestValidationError
    from fastapi.responses import JSONResponse
    from pydantic import BaseModel, Field, FiniteFloat

    n_features = classifier.n_features_in_
    app = FastAPI(title="sksmooth")
    Number = Annotated[FiniteFloat, Field(strict=True, ge=-LARGEST, le=LARGEST)]  # no text

    class Rows(BaseModel):
        rows: list[list[Number]] = Field(min_length=1, max_length=10_000)

    @app.exception_handler(RequestValidationError)
    def refuse(request, error):  # without what was sent, which may be NaN: JSON has none
        wrong = [{"loc": own["loc"], "msg": own["msg"]} for own in error.errors()]
        return JSONResponse({"detail": wrong}, status_code=422)

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
        try:
            probabilities = classifier.predict_proba(np.array(batch.rows))
        except ValueError as error:
            raise HTTPException(422, str(error)) from error
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
