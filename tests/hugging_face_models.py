"""Small models of transformers, trained here in a second or two, in folders as `save_pretrained` writes them."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import transformers
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

GOOD = ("good", "great", "lovely", "tasty", "wonderful")
BAD = ("bad", "awful", "boring", "bland", "terrible")
THINGS = ("soup", "film", "book", "dinner", "weather", "music")
PEOPLE = ("Anna", "Bela Bartok", "Clara Schumann", "Dmitri", "Emilie du Chatelet", "Gauss")
PLACES = ("Rome", "New York", "Göttingen", "Buenos Aires", "Oslo")
TAGS = ("O", "B-PER", "I-PER", "B-LOC", "I-LOC")


def sentiment_texts(count: int = 120) -> tuple[list[str], list[int]]:
    """Texts, and 1 where they praise, else 0."""
    draw = random.Random(0)
    labels = [draw.randrange(2) for _ in range(count)]
    short = [
        (f"{word} {thing}.", label) for label, words in enumerate((BAD, GOOD)) for word in words for thing in THINGS
    ]
    texts = [text for text, _ in short]
    return texts + [
        f"The {draw.choice(THINGS)} was {draw.choice(('really ', '', 'so '))}{draw.choice(GOOD if label else BAD)}"
        f"{draw.choice(('', '.', ', and the ' + draw.choice(THINGS) + ' too'))}"
        for label in labels
    ], [label for _, label in short] + labels


def tagged_texts(count: int = 120) -> list[tuple[str, list[tuple[int, int, str]]]]:
    """Texts, each with its entities: first character, last + 1, PER or LOC."""
    draw = random.Random(0)
    found = []
    for _ in range(count):
        text, spans = "", []
        for part in draw.choice(
            (("{P}", " lives in ", "{L}", "."), ("In ", "{L}", ", ", "{P}", " met ", "{P}"), ("It rains in ", "{L}"))
        ):
            kind = {"{P}": "PER", "{L}": "LOC"}.get(part)
            word = part if kind is None else draw.choice(PEOPLE if kind == "PER" else PLACES)
            if kind is not None:
                spans.append((len(text), len(text) + len(word), kind))
            text += word
        found.append((text, spans))
    return found


def word_piece(texts: Sequence[str], *, size: int = 140, max_length: int = 64) -> Any:
    """A WordPiece tokenizer of lower case, with few enough tokens that words are split."""
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    tokenizer.train_from_iterator(
        texts, trainers.WordPieceTrainer(vocab_size=size, special_tokens=special, show_progress=False)
    )
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    return transformers.BertTokenizerFast(tokenizer_object=tokenizer, model_max_length=max_length)


def byte_pairs(texts: Sequence[str], *, size: int = 400, **settings: Any) -> Any:
    """A byte-level BPE tokenizer, as RoBERTa and GPT-2 have."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=special,
        show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    tokenizer.train_from_iterator(texts, trainer)
    return transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, **settings)


def tiny(**settings: Any) -> dict[str, Any]:
    """Settings of a model of the BERT kind that is trained in a moment."""
    return {
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 64,
        "max_position_embeddings": 64,
        **settings,
    }


def train(model: Any, inputs: dict[str, Any], steps: int = 40) -> Any:
    """Fit a model to all inputs at once."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    model.train()
    for _ in range(steps):
        optimizer.zero_grad()
        model(**inputs).loss.backward()
        optimizer.step()
    return model.eval()


def save(folder: Path, model: Any, tokenizer: Any) -> Path:
    """Write both into a folder, which may be there already."""
    with quiet():
        model.save_pretrained(folder)
        if tokenizer is not None:
            tokenizer.save_pretrained(folder)
    return folder


def write_sentiment(folder: Path, *, multi_label: bool = False) -> Path:
    """A BERT that tells praise from blame, with the labels ``blame`` and ``praise``."""
    texts, labels = sentiment_texts()
    tokenizer = word_piece(texts)
    with _seeded():
        config = transformers.BertConfig(vocab_size=len(tokenizer), id2label={0: "blame", 1: "praise"}, **tiny())
        if multi_label:
            config.problem_type = "multi_label_classification"
        model = transformers.BertForSequenceClassification(config)
        target = torch.tensor(labels)
        if multi_label:
            target = torch.nn.functional.one_hot(target, 2).float()
        train(model, {**tokenizer(texts, padding=True, return_tensors="pt"), "labels": target})
    return save(folder, model, tokenizer)


def write_tagger(folder: Path) -> Path:
    """A BERT that finds people and places."""
    tagged = tagged_texts()
    texts = [text for text, _ in tagged]
    tokenizer = word_piece(texts)
    encoded = tokenizer(texts, padding=True, return_tensors="pt", return_offsets_mapping=True)
    labels = torch.tensor(
        [
            _tags(offsets, spans)
            for offsets, (_, spans) in zip(encoded.pop("offset_mapping").tolist(), tagged, strict=True)
        ]
    )
    with _seeded():
        config = transformers.BertConfig(vocab_size=len(tokenizer), id2label=dict(enumerate(TAGS)), **tiny())
        model = train(transformers.BertForTokenClassification(config), {**encoded, "labels": labels})
    return save(folder, model, tokenizer)


def write_roberta(folder: Path) -> Path:
    """A RoBERTa, not trained, for two labels; its positions begin behind the padding token's id."""
    texts, _ = sentiment_texts()
    tokenizer = byte_pairs(
        texts,
        bos_token="<s>",
        cls_token="<s>",
        eos_token="</s>",
        sep_token="</s>",
        pad_token="<pad>",
        unk_token="<unk>",
        mask_token="<mask>",
    )
    tokenizer.backend_tokenizer.post_processor = processors.RobertaProcessing(
        ("</s>", 2), ("<s>", 0), add_prefix_space=False
    )
    with _seeded():
        config = transformers.RobertaConfig(vocab_size=len(tokenizer), pad_token_id=1, initializer_range=0.5, **tiny())
        model = transformers.RobertaForSequenceClassification(config)
    return save(folder, model.eval(), tokenizer)


def write_gpt2(folder: Path) -> Path:
    """A GPT-2, not trained, for three labels, whose tokenizer has no padding token and adds no tokens."""
    texts, _ = sentiment_texts()
    tokenizer = byte_pairs(texts, unk_token="<unk>", eos_token="</s>")
    with _seeded():
        config = transformers.GPT2Config(
            vocab_size=len(tokenizer),
            n_embd=32,
            n_layer=2,
            n_head=2,
            n_positions=64,
            bos_token_id=2,
            eos_token_id=2,
            num_labels=3,
            initializer_range=0.5,
        )
        model = transformers.GPT2ForSequenceClassification(config)
    return save(folder, model.eval(), tokenizer)


def pipeline(task: str, folder: Path, **settings: Any) -> Any:
    """transformers' own pipeline over a folder."""
    with quiet():
        return transformers.pipeline(task, model=str(folder), tokenizer=str(folder), device="cpu", **settings)


def _tags(offsets: Sequence[Sequence[int]], spans: Sequence[tuple[int, int, str]]) -> list[int]:
    tags = []
    for start, end in offsets:
        inside = [(first, kind) for first, last, kind in spans if first <= start < end <= last]
        tags.append(
            TAGS.index(f"{'B' if start == inside[0][0] else 'I'}-{inside[0][1]}")
            if inside
            else -100
            if start == end
            else 0
        )
    return tags


@contextmanager
def _seeded() -> Iterator[None]:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


@contextmanager
def quiet() -> Iterator[None]:
    """Without transformers' progress bars and reports."""
    logging = transformers.utils.logging
    verbosity, has_bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if has_bars:
            logging.enable_progress_bar()
