"""Our gradient attacks and torchattacks' on the same small network: how far their results are apart.

    rivals/bin/python benchmarks/gradient_attacks.py     # the environment of augmentation_speed.py

The inputs lie in the middle of the unit cube, so that torchattacks, which is made for images and keeps them from 0 to 1,
never clips. Both get the same epsilon, step size and steps, and no random start.
"""

from importlib.metadata import version

import torch
import torchattacks
from common import write

from llm_course.adversarial_examples import fgsm, pgd

EPSILON, STEP_SIZE, STEPS = 0.1, 0.03, 10


def network(seed: int) -> torch.nn.Module:
    "Three layers with random weights, in double precision"
    torch.manual_seed(seed)
    layers = torch.nn.Flatten(), torch.nn.Linear(48, 64), torch.nn.Tanh(), torch.nn.Linear(64, 32), torch.nn.Tanh()
    return torch.nn.Sequential(*layers, torch.nn.Linear(32, 3)).double().eval()


def agreement(seed: int) -> dict[str, float]:
    "The largest difference of a coordinate, for each attack"
    model = network(seed)
    generator = torch.Generator().manual_seed(seed)
    inputs = 0.3 + 0.4 * torch.rand(50, 3, 4, 4, generator=generator, dtype=torch.float64)
    targets = torch.randint(3, (50,), generator=generator)
    both = {"epsilon": EPSILON, "steps": STEPS, "step_size": STEP_SIZE, "random_start": False}
    pairs = {
        "FGSM": (fgsm(model, inputs, targets, epsilon=EPSILON), torchattacks.FGSM(model, eps=EPSILON)),
        "PGD in the cube": (pgd(model, inputs, targets, norm="linf", **both),
                            torchattacks.PGD(model, EPSILON, STEP_SIZE, STEPS, random_start=False)),
        "PGD in the ball": (pgd(model, inputs, targets, norm="l2", **both),
                            torchattacks.PGDL2(model, EPSILON, STEP_SIZE, STEPS, random_start=False)),
    }
    return {name: (ours.inputs + ours.perturbation - theirs(inputs, targets)).abs().max().item()
            for name, (ours, theirs) in pairs.items()}


def main():
    "Compare on five networks and keep the largest differences"
    rows = [agreement(seed) for seed in range(5)]
    write("gradient_attacks", {"torchattacks": version("torchattacks"),
                               "epsilon": EPSILON, "steps": STEPS, "networks": len(rows),
                               "largest_difference": {name: max(row[name] for row in rows) for name in rows[0]}})


if __name__ == "__main__":
    main()
