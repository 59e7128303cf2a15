"""Loads a Hugging Face folder for the task that it was trained for."""

from __future__ import annotations

from typing import Any

import torch

from salver.core.errors import InvalidArtifact, ModelFailed
from salver.core.model import ModelSpec
from salver.core.tensor import Array
from salver.runtimes.base import LoadedModel, Runtime
from salver.runtimes.torch_device import torch_device
from salver.runtimes.transformers.entities import EntityFinder
from salver.runtimes.transformers.folder import ModelFolder, label_names, read_folder
from salver.runtimes.transformers.loading import (
    check_vocabulary,
    load_model,
    load_tokenizer,
    max_length,
    read_weights,
)
from salver.runtimes.transformers.models import FeatureExtractor, TextClassifier, TokenClassifier, default_activation
from salver.runtimes.transformers.network import Network, Read
from salver.runtimes.transformers.options import FEATURES, TEXT, TOKEN, Options, read_options, read_task
from salver.runtimes.transformers.pooling import build_pooler
from salver.runtimes.transformers.tokens import Tokenization

_SAMPLE = "a"


class TransformersRuntime(Runtime):
    """Loads Hugging Face folders (``save_pretrained``, sentence-transformers) for text classification, token
    classification and feature extraction, with PyTorch.

    Nothing is downloaded. Weights are safetensors; pickles (``pytorch_model.bin``) need ``allow_code``, and are read
    with ``weights_only`` then. Code in the folder runs where ``allow_code`` and the option ``trust_remote_code`` say
    so.

    Options: see :class:`salver.runtimes.transformers.options.Options`, and ``task``. ``threads`` sets the threads of
    all PyTorch models in the process: PyTorch has one number for all of them.
    """

    name = "transformers"
    extra = "transformers"

    def load(self, spec: ModelSpec) -> LoadedModel:
        """Load a folder; see :meth:`Runtime.load`."""
        folder = read_folder(spec.path)
        task = read_task(spec, folder)
        options = read_options(spec, task, allow_code=self.allow_code)
        device = torch_device(spec)
        if spec.threads is not None:
            torch.set_num_threads(spec.threads)
        model = load_model(spec, folder, task, options, allow_code=self.allow_code)
        tokenizer = load_tokenizer(spec, folder, options)
        if task == TOKEN and not tokenizer.is_fast:
            raise InvalidArtifact(
                f"model {spec.name!r}: token classification needs a tokenizer that knows where in the text its tokens "
                f"are (tokenizer.json), and {folder.path} has a {type(tokenizer).__name__}"
            )
        check_vocabulary(folder, tokenizer, model)
        tokenization = Tokenization(
            tokenizer,
            max_length=max_length(spec, folder, options, tokenizer, model),
            truncation=options.truncation,
            max_characters=options.max_characters,
            wants_offsets=task == TOKEN,
        )
        model = model.to(device=device, dtype=getattr(torch, options.dtype))
        network = Network(
            model,
            tokenization,
            device=device,
            batch_tokens=options.batch_tokens,
            # Classifiers that want padding on the left (XLNet) look at the last token, whatever it is.
            may_pad=task == FEATURES or tokenizer.padding_side == "right",
            name=spec.name,
        )
        if task == FEATURES:
            return self._feature_extractor(spec, folder, options, network)
        labels = label_names(
            folder.config, folder.path, self._sample(spec, network, lambda output, _: output.logits).shape[-1]
        )
        if task == TEXT:
            if folder.modules:
                named = ", ".join(module.kind for module in folder.modules)
                raise InvalidArtifact(f"model {spec.name!r}: a text classifier with modules ({named}) can't be served")
            activation = options.activation or default_activation(folder, len(labels))
            return TextClassifier(spec, network, labels, activation)
        return TokenClassifier(spec, network, _finder(options, labels, tokenizer))

    def _feature_extractor(
        self, spec: ModelSpec, folder: ModelFolder, options: Options, network: Network
    ) -> FeatureExtractor:
        pooler = build_pooler(
            folder.modules,
            pooling=options.pooling,
            unit_length=options.normalize,
            read_weights=lambda path: read_weights(path, allow_code=self.allow_code),
        )
        pooler.to(network.device)
        size = self._sample(spec, network, lambda output, mask: pooler(output.last_hidden_state, mask)).shape[-1]
        return FeatureExtractor(
            spec,
            network,
            pooler,
            size=size,
            prompt=folder.prompt if options.prompt is None else options.prompt,
            lower_case=bool(folder.sentence.get("do_lower_case")),
        )

    def _sample(self, spec: ModelSpec, network: Network, read: Read) -> Array:
        """What a model gives for a text: a model for pictures, say, shows here that it can't run on text alone."""
        try:
            return network.run(network.tokenization.encode([_SAMPLE], None), read)[0]
        except (ModelFailed, AttributeError) as error:
            raise InvalidArtifact(f"model {spec.name!r}: {spec.path} can't run on a text: {error}") from error


def _finder(options: Options, labels: Any, tokenizer: Any) -> EntityFinder:
    marks = getattr(tokenizer.backend_tokenizer.model, "continuing_subword_prefix", None)
    return EntityFinder(
        labels,
        options.aggregation_strategy,
        options.ignore_labels,
        token_text=tokenizer.convert_ids_to_tokens,
        marks_subwords=bool(marks),
        unknown_id=tokenizer.unk_token_id,
    )
