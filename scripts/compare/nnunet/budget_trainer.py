"""Train nnU-Net on a budget of minutes; nnU-Net finds this trainer through `nnUNet_extTrainer`.

Settings: BUDGET_MINUTES, BUDGET_SEED.
"""

import os
import random
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

#: Exponent of nnU-Net's polynomial learning rate, and largest norm of its clipped gradients.
EXPONENT, LARGEST_NORM = 0.9, 12


class BudgetTrainer(nnUNetTrainer):
    """Train for a number of minutes from the first batch on, without validation between or after.

    The learning rate falls as nnU-Net's does, but with the elapsed share of the time instead of 1,000 epochs. Forward
    passes are in bf16, which nnU-Net does not use on a CPU, and losses in fp32. Each step's `seconds,loss` goes to
    `loss.csv`.
    """

    def run_training(self) -> None:
        seed = int(os.environ["BUDGET_SEED"])
        for start in (random.seed, np.random.seed, torch.manual_seed):
            start(seed)
        self.on_train_start()
        self.network.train()
        budget = 60 * float(os.environ["BUDGET_MINUTES"])
        started, elapsed = time.monotonic(), 0.0
        with open(Path(self.output_folder) / "loss.csv", "w", encoding="utf-8") as stream:
            stream.write("seconds,loss\n")
            while elapsed < budget:
                for group in self.optimizer.param_groups:
                    group["lr"] = self.initial_lr * (1 - elapsed / budget) ** EXPONENT
                loss = self.train_step(next(self.dataloader_train))["loss"]
                elapsed = time.monotonic() - started
                stream.write(f"{elapsed:.3f},{float(loss):.5f}\n")
        self.on_train_end()

    def train_step(self, batch: dict[str, Any]) -> dict[str, Any]:
        data = batch["data"].to(self.device)
        target = [part.to(self.device) for part in batch["target"]]
        self.optimizer.zero_grad(set_to_none=True)
        with torch.autocast(self.device.type, dtype=torch.bfloat16):
            outputs = self.network(data)
        loss = self.loss([output.float() for output in outputs], target)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.network.parameters(), LARGEST_NORM)
        self.optimizer.step()
        return {"loss": loss.detach().cpu().numpy()}

    def perform_actual_validation(self, save_probabilities: bool = False) -> None:
        """Skip the validation: a comparison scores scans that no training has."""
