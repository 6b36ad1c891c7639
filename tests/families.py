"""Small tokenizers and models of every family, made here and written to folders, as people bring them."""

from functools import lru_cache
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import AutoConfig, AutoModelForSequenceClassification, PreTrainedTokenizerFast

from llm_course.data import load_ratings
from llm_course.models import bundled_model_folder
from llm_course.tokens import load_tokenizer

SPECIAL = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]  # RoBERTa's order: positions begin behind that of <pad>
FAMILIES = ("WordPiece", "byte-level", "byte-level trimmed", "sentencepiece", "end mark")
SIZES = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16, "n_embd": 16,
         "n_layer": 1, "n_head": 2, "n_layers": 1, "n_heads": 2, "dim": 16, "hidden_dim": 16, "embedding_size": 16,
         "attention_window": 8, "attention_type": "original_full", "bos_token_id": 0, "eos_token_id": 2}


@lru_cache
def tokenizer_of(family: str) -> PreTrainedTokenizerFast:
    "A tokenizer of a family with 3,000 tokens, trained on bundled reviews; with special tokens at both ends"
    if family == "WordPiece":
        return load_tokenizer(str(bundled_model_folder()))
    kind, more, first = trainers.BpeTrainer, {}, ["a"]
    if family == "sentencepiece":
        tokenizer, kind, more = Tokenizer(models.Unigram()), trainers.UnigramTrainer, {"unk_token": "<unk>"}
        tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
    elif family == "end mark":
        tokenizer, more = Tokenizer(models.BPE(unk_token="<unk>", end_of_word_suffix="</w>")), {"end_of_word_suffix": "</w>"}
        tokenizer.normalizer, tokenizer.pre_tokenizer = normalizers.Lowercase(), pre_tokenizers.BertPreTokenizer()
        tokenizer.decoder = decoders.BPEDecoder(suffix="</w>")
    else:
        tokenizer, first = Tokenizer(models.BPE()), pre_tokenizers.ByteLevel.alphabet()
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.decoder = decoders.ByteLevel()
    tokenizer.train_from_iterator(load_ratings("movies")["text"].tolist()[:4000], kind(
        special_tokens=SPECIAL, vocab_size=3000, show_progress=False, initial_alphabet=first, **more))
    ends = processors.TemplateProcessing(single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 2)])
    offsets = [processors.ByteLevel(trim_offsets="trimmed" in family)] if "byte" in family else []
    tokenizer.post_processor = processors.Sequence([*offsets, ends])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", pad_token="<pad>",
                                   mask_token="<mask>", unk_token="<unk>")


def without_ends(family: str) -> PreTrainedTokenizerFast:
    "The same tokenizer adding nothing, as a decoder's does"
    import copy

    tokenizer = copy.deepcopy(tokenizer_of(family))
    backend = tokenizer.backend_tokenizer
    backend.post_processor = processors.ByteLevel(trim_offsets=False) if "byte" in family else processors.Sequence([])
    return tokenizer


def model_folder(
    folder: Path,
    kind: str = "bert",  # as transformers calls it
    family: str = "WordPiece",
    *,
    names: tuple[str, ...] | None = None,  # of the outputs; LABEL_0 and so on if None
    tokenizer: PreTrainedTokenizerFast | None = None,
    seed: int = 0,
    **sizes,
) -> Path:
    "A random classifier in a folder, as `save_pretrained` writes it"
    tokenizer = tokenizer or tokenizer_of(family)
    chosen = {**SIZES, "pad_token_id": tokenizer.pad_token_id, **sizes}
    if kind == "distilbert":
        chosen = {key: value for key, value in chosen.items() if key not in ("hidden_size", "num_attention_heads",
                                                                            "num_hidden_layers")}
    if kind == "gpt2":
        chosen = {key: value for key, value in chosen.items() if "hidden" not in key and "attention_" not in key}
    config = AutoConfig.for_model(kind, vocab_size=len(tokenizer), num_labels=len(names or "12"), **chosen)
    if names:
        config.id2label, config.label2id = dict(enumerate(names)), {name: i for i, name in enumerate(names)}
    torch.manual_seed(seed)
    model = AutoModelForSequenceClassification.from_config(config)
    with torch.no_grad():
        for weights in model.parameters():  # random weights of a size that tells texts apart
            weights.mul_(4)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
