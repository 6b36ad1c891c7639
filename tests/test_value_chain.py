"""The operations of training are torch's and lesson 42's; published runs are as their sources say; bad input is named."""

import json
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.flop_counter import FlopCounterMode
from transformers import BertConfig, BertModel

from llm_course.course import ROLES
from llm_course.scaling import SHAPES, training_flops
from llm_course.value_chain import (DEVICES, INVOLVEMENT, PUBLISHED, STAGES, Device, answering_role, compare_runs, predicted_loss,
                                    reading_path, reading_paths, responsibility_map, training_compute, training_cost)

some = settings(max_examples=60, deadline=None, derandomize=True)


@pytest.mark.parametrize("length", [16, 128, 512])
@pytest.mark.parametrize(("layers", "hidden", "heads"), [(2, 64, 2), (6, 384, 12), (12, 768, 12)])
def test_the_formula_is_within_two_percent_of_the_counter(layers, hidden, heads, length):
    with torch.device("meta"):
        model = BertModel(BertConfig(num_hidden_layers=layers, hidden_size=hidden, num_attention_heads=heads,
                                     intermediate_size=4 * hidden, attn_implementation="eager"))
        vectors = torch.zeros(3, length, hidden, requires_grad=True)
        with FlopCounterMode(display=False) as counter:
            model.encoder(vectors).last_hidden_state.sum().backward()
    parameters = sum(values.numel() for values in model.encoder.parameters())
    found = training_compute(parameters, 3 * length, layers=layers, hidden_size=hidden, length=length)
    assert abs(found / counter.get_total_flops() - 1) < 0.02


@pytest.mark.parametrize("name", ["MiniLM (23M)", "BERT-base (109M)", "BERT-large (335M)"])
def test_lesson_42_counts_the_same(name):
    shape = SHAPES[name]
    parameters = 12 * shape.layers * shape.hidden_size**2
    found = training_compute(parameters, 8 * 128, layers=shape.layers, hidden_size=shape.hidden_size, length=128)
    assert abs(found / training_flops(shape, 8, 128) - 1) < 0.01


@some
@given(st.floats(1, 1e13), st.floats(1, 1e15), st.floats(0.01, 1), st.floats(0, 100))
def test_costs_are_proportional(parameters, tokens, utilisation, price):
    compute = training_compute(parameters, tokens)
    one, two = (training_cost(times * compute, "A100", utilisation, price) for times in (1, 2))
    assert math.isclose(two.device_hours, 2 * one.device_hours) and math.isclose(two.money, 2 * one.money)
    assert math.isclose(one.kilowatt_hours, 0.4 * one.device_hours)
    assert math.isclose(one.device_hours * 3600 * DEVICES["A100"].peak * utilisation, compute)


def test_published_figures_are_those_of_their_sources():
    "Copied once more from the papers, so that a slip in the lesson is seen"
    by = {(run.model, run.unit): run for run in PUBLISHED}
    assert by["GPT-3", "operations"].published == 3.14e23 and by["GPT-3", "operations"].parameters == 174_600e6
    assert by["LLaMA-7B", "device hours"].published == 82432 and by["LLaMA-7B", "kWh"].published == 36e3
    assert by["BLOOM", "kWh"].published == round(by["BLOOM", "device hours"].published * 0.4)  # calculated, not measured
    assert by["Chinchilla", "operations"].published == 5.76e23
    assert [run.third_party for run in PUBLISHED if run.model in ("T5-11B",)] == ["OpenAI"]
    for size, chips in (("base", 16), ("large", 64)):
        assert by[f"BERT-{size}", "device hours"].published == chips * 96
        assert by[f"BERT-{size}", "operations"].third_party == "OpenAI"
    assert {run.model for run in PUBLISHED} == {"BERT-base", "BERT-large", "T5-11B", "GPT-3", "Chinchilla", "BLOOM", "LLaMA-7B"}
    assert compare_runs()["ratio"].between(1 / 8, 8).all()


def test_one_role_answers_for_each_stage():
    found = responsibility_map()
    assert tuple(found.index) == tuple(STAGES) and tuple(found.columns) == ROLES
    assert set(found.to_numpy().ravel()) == set(INVOLVEMENT.values())
    assert all((row == "answers for").sum() == 1 for _, row in found.iterrows())
    assert {answering_role(stage) for stage in STAGES} <= set(ROLES)


@pytest.mark.parametrize("role", ROLES)
def test_a_path_has_every_lesson_after_those_that_it_needs(role):
    numbers = [lesson.number for lesson in reading_path(role)]
    assert numbers[0] == 1 and len(set(numbers)) == len(numbers)
    for place, lesson in enumerate(reading_path(role)):
        assert set(lesson.needs) <= set(numbers[:place])


def test_paths_of_lessons_made_for_it(tmp_path):
    for name, needs, roles in (("10_a", "no other lesson", "annotator"), ("11_b", "lesson 10", "evaluator"),
                               ("12_c", "lesson 11", "red teamer"), ("20_d", "no other lesson", "evaluator")):
        opening = f"# T\n\n> P.\n\n*1 minute on a laptop · needs {needs} · {roles}*\n"
        cell = {"cell_type": "markdown", "source": opening}
        (tmp_path / f"{name}.ipynb").write_text(json.dumps({"cells": [cell]}), encoding="utf-8")
    assert [lesson.number for lesson in reading_path("red teamer", tmp_path)] == [10, 11, 12]
    assert [lesson.number for lesson in reading_path("evaluator", tmp_path)] == [10, 11, 20]
    assert reading_path("product owner", tmp_path) == []
    table = reading_paths(tmp_path).data
    assert "| evaluator | [10](" in table and "**[20](" in table


@pytest.mark.parametrize(("said", "call"), [
    ("device must be one of A100, H100", lambda: training_cost(1, "B200", 0.4, 1)),
    ("device must be one of A100, H100", lambda: training_cost(1, None, 0.4, 1)),
    ("utilisation must be above 0", lambda: training_cost(1, "A100", 0, 1)),
    ("utilisation must be a number from 0 to 1", lambda: training_cost(1, "A100", 40, 1)),
    ("overhead at least 1", lambda: training_cost(1, "A100", 0.4, 1, overhead=0.9)),
    ("price must be a number of at least 0", lambda: training_cost(1, "A100", 0.4, -1)),
    ("compute must be a number of at least 0", lambda: training_cost(math.inf, "A100", 0.4, 1)),
    ("electricity must be a number of at least 0", lambda: training_cost(1, "A100", 0.4, 1, electricity=-0.1)),
    ("electricity needs the device's watts", lambda: training_cost(1, "TPU v2 chip", 0.4, 1, electricity=0.1)),
    ("peak must be a number above 0", lambda: training_cost(1, Device("mine", 0, 1), 0.4, 1)),
    ("parameters must be a number above 0", lambda: training_compute(-1, 1)),
    ("layers must be a whole number", lambda: training_compute(1, 1, layers=1.5, hidden_size=2, length=3)),
    ("together or not at all", lambda: training_compute(1, 1, layers=2)),
    ("tokens must be a number above 0", lambda: predicted_loss(1, 0)),
    ("stage must be one of data", lambda: answering_role("testing")),
    ("role must be one of data engineer", lambda: reading_path("hacker")),
    ("utilisation must be above 0", lambda: compare_runs(0)),
])
def test_bad_input_is_named(said, call):
    with pytest.raises(ValueError, match=said):
        call()
