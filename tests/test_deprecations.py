"""What transformers, datasets, accelerate and torch call deprecated fails the tests: each way is planted here."""

import logging
import warnings

import pytest
import torch
import transformers


@pytest.mark.parametrize("module", ["transformers.trainer", "datasets", "accelerate.utils.other", "torch.jit", "llm_course.models"])
@pytest.mark.parametrize("category", [DeprecationWarning, FutureWarning])
def test_a_deprecation_warning_of_a_library_is_an_error(module, category):
    with pytest.raises(category, match="old"):
        warnings.warn_explicit("this is old", category, "planted.py", 1, module=module)


def test_other_warnings_stay_warnings():
    with pytest.warns(DeprecationWarning, match="old"):
        warnings.warn_explicit("this is old", DeprecationWarning, "planted.py", 1, module="somewhere.else")


def test_a_deprecated_call_of_ours_is_an_error():
    with pytest.raises(FutureWarning, match="deprecated"):
        torch.cuda.amp.GradScaler(enabled=False)


def test_a_deprecation_that_is_only_logged_is_an_error():
    config = transformers.BertConfig()
    with pytest.raises(DeprecationWarning, match="torch_dtype"):
        assert config.torch_dtype is None
    for library in ("datasets", "accelerate"):
        with pytest.raises(DeprecationWarning, match="old way"):
            logging.getLogger(f"{library}.planted").warning("the old way is deprecated")
