"""Two training steps, each process with a batch of its own: torchrun … two_ranks.py DEVICE FILE."""

import sys

import torch
from ignite.engine import Events
from monai.engines import SupervisedTrainer
from monai.inferers import SimpleInferer

from kits_unet3d.networks import UNet3D
from kits_unet3d.pipeline import distributed
from kits_unet3d.pipeline.device import resolve, seed_everything
from kits_unet3d.pipeline.training import TrainStep

accelerator = resolve(sys.argv[1])
rank = distributed.join(accelerator)
seed_everything(0)
network = accelerator.wrap(UNet3D(channels=(2, 4)))
generator = torch.Generator().manual_seed(rank)
batch = {
    "image": torch.rand((1, 1, 8, 8, 8), generator=generator),
    "label": torch.randint(0, 3, (1, 1, 8, 8, 8), generator=generator),
}
losses: list[float] = []
trainer = SupervisedTrainer(
    device=accelerator.device,
    max_epochs=2,
    train_data_loader=[batch],
    network=network,
    optimizer=torch.optim.SGD(network.parameters(), 0.1, momentum=0.9, nesterov=True),
    loss_function=lambda p, t: torch.nn.functional.cross_entropy(p, t[:, 0]),
    inferer=SimpleInferer(),
    iteration_update=TrainStep(accelerator),
    decollate=False,
)
trainer.add_event_handler(Events.ITERATION_COMPLETED, lambda e: losses.append(e.state.output["loss"].item()))
trainer.run()
weights = torch.cat([p.detach().cpu().reshape(-1) for p in network.parameters()])
by_rank = distributed.gather_by_case({str(rank): (losses, weights)})
if rank == 0:
    assert torch.equal(by_rank["0"][1], by_rank["1"][1]), "the processes' weights differ"
    assert by_rank["0"][0] != by_rank["1"][0], "the processes had the same batch"
    torch.save({"losses": [by_rank[r][0] for r in ("0", "1")], "weights": weights}, sys.argv[2])
