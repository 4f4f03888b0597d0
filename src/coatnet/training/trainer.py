"""One training step, and everything that it needs."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path

import torch
from timm.layers import convert_sync_batchnorm
from timm.scheduler.scheduler import Scheduler
from torch import Tensor, nn

from coatnet.data.augmentation import BatchAugmentation
from coatnet.data.loader import Batch, evaluation_batches
from coatnet.data.preprocess import Preprocess
from coatnet.data.randomness import position_seed
from coatnet.data.sources import Source
from coatnet.errors import QualityError
from coatnet.evaluation.evaluate import score, share_of
from coatnet.evaluation.metrics import Evaluation
from coatnet.model.coatnet import CoAtNet
from coatnet.model.family import create_model
from coatnet.model.guests import GuestConfig
from coatnet.model.layers import ordered_layers
from coatnet.model.mbconv import StochasticDepth
from coatnet.model.weights import load_weights
from coatnet.ranks import average
from coatnet.runtime.engines import Precision, TorchEngine
from coatnet.training.checkpoint import TrainingState, Weights
from coatnet.training.config import TrainConfig
from coatnet.training.machine import choose_precision
from coatnet.training.optimizer import create_ema, create_optimizer, create_schedule
from coatnet.training.parallel import RunningStatistics, keep_to_itself, parallel
from coatnet.training.sharding import is_sharded, shard_average, whole, whole_network
from coatnet.training.signals import StopSignal

# What the seed of a step is mixed with, so that its draws have nothing in common.
_BATCH_DRAW, _DEPTH_DRAW, _GUEST_DRAW = 1, 2, 3
MOST_SKIPPED = 3
"""Steps in a row without a finite gradient after which a run ends: one may be a freak, more are divergence."""
EVALUATION_BATCH = 256
"""Images per forward of an evaluation: enough to fill the machine, without gradients they take little memory."""


class Trainer:
    """All that a step needs. Built the same way for a fresh and for a resumed run, so that both take the same steps.

    Args:
        config: the run; its length in steps.
        device: where the network lives.
        initial: the run's file of first weights; random ones if there is none.
    """

    def __init__(self, config: TrainConfig, device: torch.device, initial: Path | None = None) -> None:
        assert config.run.steps is not None
        self.config = config
        self.device = device
        self.precision: Precision = choose_precision(config.run.precision, device)
        torch.manual_seed(config.run.seed)
        model = create_model(config.model)
        if initial is not None:
            load_weights(model, initial)
        if config.run.sync_batch_norm:
            model = convert_sync_batchnorm(model)  # type: ignore[no-untyped-call]
        # The run's own network, so its weights may lie as convolutions read them fastest.
        model = model.to(device).to(memory_format=torch.channels_last).train()
        ema = create_ema(model, config.optimizer)
        self._connect(model)
        if ema and is_sharded(model):
            shard_average(ema, device)
        if config.run.recompute:
            assert isinstance(model, CoAtNet)
            model.recompute = True
        self.frozen = False
        self._set_batch_norms(model)
        optimizer = create_optimizer(model, config.optimizer)
        self.state = TrainingState(model, optimizer, ema)
        self.statistics = RunningStatistics(model)
        self.depths = [module for module in model.modules() if isinstance(module, StochasticDepth) and module.rate]
        self.schedule: Scheduler = create_schedule(optimizer, config.optimizer, config.run.steps)
        self.augmentation = BatchAugmentation(config.augmentation)
        self.normalise = Normaliser(config.preprocess, device)
        self.loss = nn.functional.cross_entropy if config.optimizer.loss == "softmax" else sigmoid_loss

    def _connect(self, model: nn.Module) -> None:
        """Set what a step calls: the network as the processes share it, and the same compiled if that is asked for."""
        run = self.config.run
        self.shared = parallel(model, run, self.device)
        self.network = torch.compile(self.shared) if run.compile else self.shared

    @property
    def weights(self) -> tuple[Weights, ...]:
        """The weights that an evaluation compares: raw, and averaged if there is an average; at first they are one."""
        if self.state.ema is None:
            return ("raw",)
        return ("averaged", "raw") if self.state.step else ("averaged",)

    def network_of(self, weights: Weights) -> nn.Module:
        """The network with the raw weights, or with their moving average."""
        ema = self.state.ema
        model = ema.module if weights == "averaged" and ema else self.state.model
        return whole_network(model, self.config.model, self.device)

    @property
    def chosen(self) -> nn.Module:
        """What becomes the classifier: the weights of the best evaluation where they are kept, else the better of the
        last one."""
        state = self.state
        if not state.best_weights:
            return self.network_of(state.better)
        chosen = copy.deepcopy(self.network_of(state.better))
        chosen.load_state_dict(state.best_weights)
        return chosen

    def note(self, better: Weights, evaluation: Evaluation) -> None:
        """Remember the evaluation on the validation split after a step.

        Args:
            better: the better of `weights` there.
            evaluation: of these.
        """
        state = self.state
        state.evaluated, state.better = state.step, better
        if rank(evaluation) <= (state.best, -state.best_loss):
            state.stale += 1
            return
        state.best, state.best_loss, state.best_step, state.stale = evaluation.top1, evaluation.loss, state.step, 0
        if self.config.keeps_best:
            tensors = self.network_of(better).state_dict()
            state.best_weights = {name: tensor.detach().cpu().clone() for name, tensor in tensors.items()}

    def evaluate(self, weights: Weights, source: Source, split: str, stop: StopSignal) -> Evaluation:
        """Scores of the network with raw or averaged weights, in the precision of training.

        Raises:
            Stopped: a signal came.
        """
        engine = TorchEngine(self.network_of(weights), str(self.device), self.precision)
        preprocess = self.config.preprocess
        own = share_of(source)
        batches = evaluation_batches(own, preprocess, EVALUATION_BATCH, self.config.data.workers)
        return score(
            lambda images: engine.logits(preprocess.normalized(images)),
            own,
            batches,
            split=split,
            should_stop=stop.is_asked,
        )

    def step(self, batches: Sequence[Batch]) -> Tensor | None:
        """Forward, backward, clip, update, average.

        Args:
            batches: this process's micro-batches of the step.

        Returns:
            The loss, a scalar still on the device; the mean of all processes. None if the gradient is not finite: then
            nothing was updated, and `state.skipped` is how many steps in a row that was so.

        Raises:
            QualityError: it was so in `MOST_SKIPPED` steps.
        """
        state, step = self.state, batches[0].step
        self._freeze(step)
        state.optimizer.zero_grad()
        self.statistics.begin()
        losses = []
        for batch in batches:
            with nullcontext() if batch is batches[-1] else keep_to_itself(self.shared):
                loss = self._loss(batch) / len(batches)
                torch.autograd.backward(loss)
            self.statistics.note(last=batch is batches[-1])
            losses.append(loss.detach())
        total = losses[0] if len(losses) == 1 else torch.stack(losses).sum()
        average([total])
        norm = nn.utils.clip_grad_norm_(state.model.parameters(), self.config.optimizer.gradient_clip or math.inf)
        state.step = step + 1
        if not torch.isfinite(whole(norm)):
            self.statistics.forget()
            self._skip(step, total)
            return None
        state.skipped = 0
        self.statistics.finish()
        self.schedule.step_update(step)
        state.optimizer.step()
        if state.ema:
            state.ema.update(state.model, step=state.step)
        return total

    def _skip(self, step: int, loss: Tensor) -> None:
        self.state.skipped += 1
        if self.state.skipped == MOST_SKIPPED:
            raise QualityError(
                f"training diverged: the gradient of step {step + 1} is not finite (loss {float(loss):.4g}), nor those "
                f"of the {MOST_SKIPPED - 1} steps before it",
                "lower --learning-rate and start again",
            )

    def _freeze(self, step: int) -> None:
        """Set what is trained in this step."""
        config = self.config
        if config.optimizer.freeze == "none":
            return
        frozen = config.optimizer.freezes(step, config.run.steps or 0)
        train_mode(self.state.model, frozen)
        self._set_batch_norms(self.state.model)
        if frozen != self.frozen:  # which gradients are averaged is settled when the network is wrapped
            self.frozen = frozen
            self._connect(self.state.model)

    def _set_batch_norms(self, model: nn.Module) -> None:
        """Let them use what is stored where that is to be kept."""
        if self.config.optimizer.batch_norms == "kept":
            for layer in model.modules():
                if isinstance(layer, nn.modules.batchnorm._BatchNorm):
                    layer.eval()

    def _loss(self, batch: Batch) -> Tensor:
        """Augment a micro-batch, and run it through the network."""
        images = self.normalise(batch.images)
        labels = batch.labels.to(self.device)
        seed = position_seed(self.config.run.seed, batch.place)
        images, targets = self.augmentation(
            images, labels, self.config.model.num_classes, position_seed(seed, _BATCH_DRAW)
        )
        draw_stochastic_depth(self.depths, len(labels), position_seed(seed, _DEPTH_DRAW), self.device)
        if isinstance(self.config.model, GuestConfig):  # guests draw from torch's own generators
            torch.manual_seed(position_seed(seed, _GUEST_DRAW))
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == "bfloat16"):
            logits = self.network(images)
        return self.loss(logits.float(), targets)


def rank(evaluation: Evaluation) -> tuple[float, float]:
    """What is larger for the better of two evaluations: the accuracy, then the negative loss."""
    return evaluation.top1, -evaluation.loss


class Normaliser:
    """Pixels to the network's input on the device, as `Preprocess.normalized` does in NumPy."""

    def __init__(self, preprocess: Preprocess, device: torch.device) -> None:
        self.device = device
        # Repeated along a row of pixels: a broadcast over three channels alone takes four times as long on a CPU.
        width = preprocess.image_size[1]
        self.scale = (1 / (255 * torch.tensor(preprocess.std))).to(device).repeat(width)
        self.shift = (-torch.tensor(preprocess.mean) / torch.tensor(preprocess.std)).to(device).repeat(width)

    def __call__(self, images_BHWC: Tensor) -> Tensor:
        """Args: images_BHWC: `(B, H, W, 3)` uint8. Returns: `(B, 3, H, W)` float32, channels-last in memory."""
        rows = images_BHWC.to(self.device, non_blocking=True).flatten(2).float()  # (B, H, W * 3)
        return rows.mul_(self.scale).add_(self.shift).view(images_BHWC.shape).permute(0, 3, 1, 2)


def train_mode(model: nn.Module, frozen: bool) -> None:
    """Make a network ready for a training step.

    Args:
        model: the network.
        frozen: all but the head stays as it is: no gradients, no running statistics, no stochastic depth.
    """
    *body, head = ordered_layers(model)
    head.train()
    for layer in body:
        layer.train(not frozen).requires_grad_(not frozen)


def sigmoid_loss(logits_BK: Tensor, targets_BK: Tensor) -> Tensor:
    """Binary cross-entropy of each class, summed over the K classes, the mean of the B samples."""
    return nn.functional.binary_cross_entropy_with_logits(logits_BK, targets_BK, reduction="sum") / len(logits_BK)


def draw_stochastic_depth(depths: Sequence[StochasticDepth], num_samples: int, seed: int, device: torch.device) -> None:
    """Fix which samples lose which branches in the next forward: a function of the seed and the place in the batch."""
    if not depths:
        return
    generator = torch.Generator().manual_seed(seed)
    uniform = torch.rand(num_samples, len(depths), generator=generator).to(device)
    for position, module in enumerate(depths):
        module.uniform_B = uniform[:, position]
