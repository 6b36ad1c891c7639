"""A device that is not there: tensors that are sent to it stay in memory, and are not let near those of the CPU

Where a learner has a GPU or a Mac, a tensor of the CPU that meets one of the device raises an error, and a machine with
neither never shows it. Within `pretended` this machine says that it has Apple's MPS. What is sent there is computed as
ever, but says that it is elsewhere, and an operation raises what a real device raises: for tensors of both places
together, for NumPy, for float64, which MPS does not have, and for a generator of the CPU. A single number of the CPU, a
tensor without dimensions, is let pass, as PyTorch mostly does, and so is a tensor whose place is not known, as within a
backward pass. Kernels and their rounding are those of the CPU: what a device cannot compute, or computes otherwise, is not
found here.

PyTorch's function mode sees each call from Python: https://docs.pytorch.org/docs/stable/torch.overrides.html"""

import contextlib
import re
from collections.abc import Iterable, Iterator
from unittest.mock import patch

import torch
from torch.overrides import TorchFunctionMode, _pop_mode_temporarily
from transformers.utils import is_torch_mps_available

THERE, HERE = "mps", "cpu"
DEVICE, UNKNOWN = torch.device(THERE, 0), torch.device(HERE, 0)  # of a tensor whose place is not known
MOVES = {torch.Tensor.to, torch.Tensor.cpu}
READS = {torch.Tensor.numpy, torch.Tensor.__array__}
COPIES = {torch.Tensor.copy_, torch._has_compatible_shallow_copy_type}  # between two places
IN_PLACE = re.compile(r"__i[a-z]+__|[a-z]\w*_")  # the name of what writes to its first tensor
TOO_WIDE = {torch.float64, torch.complex128}
THERE_IT_SAYS = {torch.Tensor.device.__get__: DEVICE, torch.Tensor.is_cpu.__get__: False, torch.Tensor.is_mps.__get__: True}
SETS_DATA = torch.Tensor.data.__set__


def tensors_in(values: Iterable) -> Iterator[torch.Tensor]:
    "All tensors among some values, and in their lists, tuples and dicts"
    for value in values:
        if isinstance(value, torch.Tensor):
            yield value
        elif isinstance(value, list | tuple):
            yield from tensors_in(value)
        elif isinstance(value, dict):
            yield from tensors_in(value.values())


def place_of(tensor: torch.Tensor) -> str | None:
    "Where a tensor says it is, if that is known"
    return getattr(tensor, "place", None)


def named(device: object) -> str | None:
    "The place that a device, its name or a tensor stands for; None for anything else, as the device of no storage"
    if isinstance(device, torch.Tensor):
        return place_of(device)
    kind = str(device).partition(":")[0]
    return kind if kind in (HERE, THERE) and device != UNKNOWN else None


def narrow_enough(tensor: torch.Tensor):
    "TypeError for numbers that the device does not have"
    if tensor.dtype in TOO_WIDE:
        raise TypeError(f"Cannot convert a MPS Tensor to {tensor.dtype} dtype as the MPS framework doesn't support it.")


def marked(result: object, place: str | None) -> object:
    "What a call gave, all tensors of it with a place"
    for tensor in tensors_in([result]):
        if place == THERE:
            narrow_enough(tensor)
        tensor.place = place
    return result


def copies_a_slice(arguments: tuple) -> bool:
    "Whether a value is set by slices and whole numbers: then it may come from elsewhere"
    index = arguments[1] if isinstance(arguments[1], tuple) else (arguments[1],)
    return all(isinstance(each, slice | int | type(None) | type(...)) for each in index)


def refuse_two(function: object, arguments: tuple, given: list[torch.Tensor]):
    "RuntimeError where tensors of both places meet, and a device would not let them"
    first = place_of(arguments[0]) if arguments and isinstance(arguments[0], torch.Tensor) else None
    written = arguments[0] if first and IN_PLACE.fullmatch(getattr(function, "__name__", "")) else None
    meeting = [tensor for tensor in given if tensor.dim() or place_of(tensor) == THERE or tensor is written]
    if function is torch.Tensor.__setitem__ and copies_a_slice(arguments):
        return
    if function in (torch.Tensor.__getitem__, torch.Tensor.__setitem__) and first == THERE:
        meeting = [arguments[0], *(tensor for tensor in tensors_in(arguments[2:]) if tensor.dim())]  # indices may be here
    if {THERE, HERE} <= {place_of(tensor) for tensor in meeting}:
        raise RuntimeError("Expected all tensors to be on the same device, but found at least two devices, mps:0 and cpu! "
                           f"({function})")


class Event:
    "An event that is over"

    def __init__(self, *_, **__):
        pass

    def record(self, *_):
        pass

    synchronize = wait = record

    def query(self) -> bool:
        return True


class Elsewhere(TorchFunctionMode):
    "Sees each call of PyTorch, keeps account of places, and refuses what a device refuses"

    def __torch_function__(self, function, types, arguments=(), options=None):
        options = options or {}
        if function in THERE_IT_SAYS:
            place, said = place_of(arguments[0]), function(*arguments)
            return THERE_IT_SAYS[function] if place == THERE else UNKNOWN if said == torch.device(HERE) and not place else said
        if function is torch._C._nn._parse_to:  # only reads what it is given
            return function(*arguments, **options)
        if function in MOVES:
            return self.moved(function, *arguments, **options)
        if function == SETS_DATA:
            function(*arguments)
            marked(arguments[0], named(arguments[1]))
            return None
        given = list(tensors_in([arguments, options]))
        if function in READS and place_of(arguments[0]) == THERE:
            raise TypeError("can't convert mps:0 device type tensor to numpy. Use Tensor.cpu() to copy the tensor to host memory first.")
        asked = named(options.get("device"))
        if function in COPIES:
            if function is torch.Tensor.copy_ and place_of(arguments[1]) == THERE:
                narrow_enough(arguments[0])
        elif asked is None:
            refuse_two(function, arguments, given)
        places = {place_of(tensor) for tensor in given if tensor.dim() or place_of(tensor) == THERE}
        place = asked or (THERE if THERE in places else HERE if places == {HERE} or not given else None)
        if options.get("device") == UNKNOWN:
            place = None
        if place == THERE and options.get("generator") is not None:
            raise RuntimeError("Expected a 'mps' device type for generator but found 'cpu'")
        result = function(*arguments, **(options if asked is None else {**options, "device": HERE}))
        if asked == THERE and any(result is tensor for tensor in given):
            result = result.clone()  # as_tensor gave the tensor itself
        new = [tensor for tensor in tensors_in([result]) if not any(tensor is old for old in given)]
        if place:
            marked(new, place)
        return result

    def moved(self, function, tensor, *arguments, **options):
        "A tensor sent somewhere: another one, if it was not there"
        targets = [*filter(None, map(named, (*arguments, options.get("device"), options.get("other"))))]
        before = place_of(tensor)
        devices = [each for each in (*arguments, options.get("device")) if isinstance(each, str | torch.device)]
        if not targets and devices:  # one that is neither of the two, as that of no storage
            return function(tensor, *arguments, **options)
        place = HERE if function is torch.Tensor.cpu else targets[0] if targets else before
        arguments = [HERE if named(each) and not isinstance(each, torch.Tensor) else each for each in arguments]
        if named(options.get("device")):
            options = {**options, "device": HERE}
        result = function(tensor, *arguments, **options)
        if place and (place == THERE) != (before == THERE) and result is tensor:
            result = tensor.clone()
        if before == THERE:
            narrow_enough(result)  # the device casts before it sends
        return marked(result, place) if place else result


@contextlib.contextmanager
def pretended() -> Iterator[None]:
    "Let this machine say that it has another device, and hold all to it"
    from_numpy, parameter, assert_close = torch.from_numpy, torch.nn.Parameter.__new__, torch.testing.assert_close
    to_onnx = torch.onnx.export

    def close(*arguments, **options):
        known = all(map(place_of, tensors_in([arguments, options])))
        assert_close(*arguments, **{"check_device": known, **options})

    def exported(*arguments, **options):
        with _pop_mode_temporarily():  # what is traced there has no values
            return to_onnx(*arguments, **options)

    def of_the_same_place(kind, data=None, *arguments, **options):
        made = parameter(kind, data, *arguments, **options)
        place = place_of(data) if isinstance(data, torch.Tensor) else HERE
        return marked(made, place) if place else made

    with contextlib.ExitStack() as stack:
        for name, value in {"torch.backends.mps.is_available": lambda: True, "torch.backends.mps.is_built": lambda: True,
                            "torch.mps.get_rng_state": lambda: torch.get_rng_state(),
                            "torch.mps.set_rng_state": lambda state: torch.set_rng_state(state),
                            "torch.mps.synchronize": lambda: None, "torch.mps.empty_cache": lambda: None,
                            "torch.Event": Event, "torch.testing.assert_close": close, "torch.onnx.export": exported,
                            "torch.from_numpy": lambda array: marked(from_numpy(array), HERE)}.items():
            stack.enter_context(patch(name, value))
        stack.enter_context(patch.object(torch.nn.Parameter, "__new__", of_the_same_place))
        is_torch_mps_available.cache_clear()  # it remembers that there was none
        stack.callback(is_torch_mps_available.cache_clear)
        stack.enter_context(Elsewhere())
        yield
