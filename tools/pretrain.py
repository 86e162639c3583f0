"""Pretrain a classifier on Tiny-ImageNet on a CPU, a night or so; it stops and resumes anywhere.

python -m tools.pretrain pack TINY_IMAGENET_200 CACHE
python -m tools.pretrain teach CACHE mobilenet_v2-b0353104.pth
python -m tools.pretrain train CACHE -o weights.safetensors --sizes 64:12 96:8
python -m tools.pretrain halve CHECKPOINT -o weights.safetensors

`pack` writes the images, labels and boxes as arrays. `teach` is optional: a linear classifier on the features
of torchvision's MobileNetV2 gives every training image soft labels. `train` saves its state every five
minutes next to the weights, and continues from it when called again. `halve` writes the weights of a
checkpoint in half precision. docs/pretraining.md has the figures.
"""

from __future__ import annotations

import argparse
import copy
import math
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor, nn

from ghost_det.utils.files import atomic
from ghost_det.weights.load import read_tensors
from ghost_det.weights.zoo import classifier

MEAN, STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)
SIDE = 64  # of Tiny-ImageNet's images


def pack(folder: Path, cache: Path) -> None:
    """Write the images (N, 64, 64, 3; RGB), labels (N) and boxes (N, 4; x1 y1 x2 y2) of both splits."""
    cache.mkdir(parents=True, exist_ok=True)
    classes = sorted((folder / 'wnids.txt').read_text().split())
    (cache / 'classes.txt').write_text('\n'.join(classes))
    rows: dict[str, list[tuple[Path, str, list[str]]]] = {'train': [], 'val': []}
    for name in classes:
        for line in (folder / 'train' / name / f'{name}_boxes.txt').read_text().splitlines():
            file, *box = line.split()
            rows['train'].append((folder / 'train' / name / 'images' / file, name, box))
    for line in (folder / 'val/val_annotations.txt').read_text().splitlines():
        file, name, *box = line.split()
        rows['val'].append((folder / 'val/images' / file, name, box))
    for split, items in rows.items():
        shape = (len(items), SIDE, SIDE, 3)
        images = np.lib.format.open_memmap(cache / f'{split}_images.npy', 'w+', np.uint8, shape)
        for i, (path, _, _) in enumerate(items):
            images[i] = cv2.imread(str(path), cv2.IMREAD_COLOR)[..., ::-1]
        images.flush()
        np.save(cache / f'{split}_labels.npy', [classes.index(name) for _, name, _ in items])
        np.save(cache / f'{split}_boxes.npy', np.array([box for _, _, box in items], np.float32))
        print(f'{split}: {len(items)} images')


class Images:
    """One split in memory-mapped arrays."""

    def __init__(self, cache: Path, split: str) -> None:
        self.images = np.load(cache / f'{split}_images.npy', mmap_mode='r')
        self.labels = torch.from_numpy(np.load(cache / f'{split}_labels.npy'))

    def __len__(self) -> int:
        return len(self.images)

    def get(self, index: Tensor) -> Tensor:
        """Return normalized images, (N, 3, 64, 64)."""
        images = torch.from_numpy(self.images[index.numpy()]).permute(0, 3, 1, 2).float()
        return (images - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(3, 1, 1)

    def batches(self, size: int, count: int = 100) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield all images, enlarged to ``size``, with their labels."""
        for index in torch.arange(len(self)).split(count):
            images = F.interpolate(self.get(index), size=(size, size), mode='bicubic')
            yield images.contiguous(memory_format=torch.channels_last), self.labels[index]


def augment(images: Tensor, size: int, generator: torch.Generator) -> Tensor:
    """Crop 35 to 100 % of each image's area, mirror, change contrast and brightness; resize to ``size``."""

    def uniform(low: float, high: float) -> Tensor:
        return torch.rand(len(images), generator=generator) * (high - low) + low

    area, ratio = uniform(0.35, 1).sqrt(), (uniform(-1, 1) * math.log(4 / 3) / 2).exp()
    width, height = (area * ratio).clamp(max=1), (area / ratio).clamp(max=1)
    theta = torch.zeros(len(images), 2, 3)
    theta[:, 0, 0] = width * (uniform(0, 1) < 0.5).float().mul(2).sub(1)
    theta[:, 1, 1] = height
    theta[:, 0, 2], theta[:, 1, 2] = uniform(-1, 1) * (1 - width), uniform(-1, 1) * (1 - height)
    grid = F.affine_grid(theta, [len(images), 3, size, size], align_corners=False)
    out = F.grid_sample(images, grid, padding_mode='border', align_corners=False)
    contrast, brightness = uniform(0.7, 1.3).view(-1, 1, 1, 1), uniform(-0.4, 0.4).view(-1, 1, 1, 1)
    return (out * contrast + brightness).contiguous(memory_format=torch.channels_last)


@torch.inference_mode()
def top1(model: nn.Module, data: Images, size: int) -> float:
    """Return the percentage of images whose class scores highest."""
    model.eval()
    hits = sum(int((model(images).argmax(1) == labels).sum()) for images, labels in data.batches(size))
    return 100 * hits / len(data)


def teach(cache: Path, weights: Path, size: int = 128) -> None:
    """Write soft labels of the training images, (N, classes), from MobileNetV2's features."""
    from torchvision.models import mobilenet_v2

    teacher = mobilenet_v2()
    teacher.load_state_dict(torch.load(weights, weights_only=True))
    network = teacher.features.eval().to(memory_format=torch.channels_last)
    features, labels = {}, {}
    for split in ('train', 'val'):
        data, path = Images(cache, split), cache / f'{split}_features.npy'
        labels[split] = data.labels
        if not path.exists():
            with torch.inference_mode():
                maps = torch.cat([network(images).mean((2, 3)).half() for images, _ in data.batches(size)])
            np.save(path, maps.numpy())
        features[split] = torch.from_numpy(np.load(path))
    probe = nn.Sequential(nn.BatchNorm1d(1280, affine=False), nn.Dropout(0.3), nn.Linear(1280, 200))
    optimizer = torch.optim.AdamW(probe.parameters(), lr=2e-3, weight_decay=0.05)
    epochs, batch = 12, 500
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs * len(labels['train']) // batch)
    for _ in range(epochs):
        for index in torch.randperm(len(labels['train'])).split(batch):
            logits = probe(features['train'][index].float())
            loss = F.cross_entropy(logits, labels['train'][index], label_smoothing=0.1)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    probe.eval()
    with torch.inference_mode():
        hits = (probe(features['val'].float()).argmax(1) == labels['val']).float().mean()
        soft = torch.cat([probe(part.float()).softmax(1).half() for part in features['train'].split(1000)])
    np.save(cache / 'train_soft.npy', soft.numpy())
    print(f'teacher: top-1 {100 * hits:.1f} % of the val images')


class Training:
    """A run over a list of image sizes, one an epoch, whose state fits into one file."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.args = args
        self.sizes = [size for part in args.sizes for size in expand(part)]
        self.data, self.val = Images(args.cache, 'train'), Images(args.cache, 'val')
        self.classes = len((args.cache / 'classes.txt').read_text().split())
        soft = args.cache / 'train_soft.npy'
        self.soft = torch.from_numpy(np.load(soft)) if soft.exists() else None
        torch.manual_seed(args.seed)
        model = classifier(args.network, num_classes=self.classes, head_channels=0)
        self.model = model.to(memory_format=torch.channels_last)
        self.average = copy.deepcopy(model).eval().requires_grad_(False)
        weights = [p for p in model.parameters() if p.dim() > 1]
        others = [p for p in model.parameters() if p.dim() < 2]
        groups = [dict(params=weights, weight_decay=args.weight_decay), dict(params=others)]
        self.optimizer = torch.optim.SGD(groups, lr=args.lr, momentum=0.9, nesterov=True)
        self.steps = len(self.data) // args.batch_size  # in an epoch
        self.total = self.steps * len(self.sizes)
        self.step = 0
        self.settings = dict(network=args.network, batch_size=args.batch_size, seed=args.seed)
        self.state = args.out.with_suffix('.state.pth')
        if self.state.exists():
            self.resume()

    def resume(self) -> None:
        """Resume from the state on disk."""
        state: dict[str, Any] = torch.load(self.state, weights_only=True)
        if state.get('settings', self.settings) != self.settings or state['step'] > self.total:
            raise SystemExit(
                f'{self.state}: belongs to another or a longer training; remove it, or choose another -o'
            )
        self.model.load_state_dict(state['model'])
        self.average.load_state_dict(state['average'])
        self.optimizer.load_state_dict(state['optimizer'])
        self.step = state['step']
        print(f'resumed after step {self.step} of {self.total}', flush=True)

    def save(self) -> None:
        """Replace the state on disk."""
        state: dict[str, Any] = dict(
            step=self.step, settings=self.settings, optimizer=self.optimizer.state_dict()
        )
        state |= dict(model=self.model.state_dict(), average=self.average.state_dict())
        with atomic(self.state) as partial, partial.open('wb') as file:
            torch.save(state, file)

    def run(self, until: int | None = None) -> None:
        """Train to the end, or to a step; at the end, write the averaged weights as fp16."""
        while self.step < min(self.total, until or self.total):
            self.run_epoch(self.step // self.steps, until or self.total)
        if self.step == self.total:
            halve(self.average.state_dict(), self.args.out)

    def run_epoch(self, epoch: int, until: int) -> None:
        """Train to the end of an epoch and evaluate the averaged weights, or only to the step ``until``."""
        size, count = self.sizes[epoch], self.args.batch_size
        order = torch.randperm(len(self.data), generator=torch.Generator().manual_seed(epoch))
        losses: list[float] = []
        began = saved = time.monotonic()
        for step in range(self.step % self.steps, self.steps):
            if self.step == until:
                break
            losses.append(self.train_step(order[step * count :][:count], size))
            if time.monotonic() - saved > 300:
                self.save()
                saved = time.monotonic()
        else:
            speed = len(losses) * count / (time.monotonic() - began)
            accuracy = top1(self.average, self.val, size)
            about = f'loss {sum(losses) / len(losses):.3f}, top-1 {accuracy:.2f} %, {speed:.0f} images/s'
            print(f'epoch {epoch + 1}: {size} px, {about}', flush=True)
        self.save()

    def train_step(self, index: Tensor, size: int) -> float:
        """Learn from one batch, and return its loss."""
        generator = torch.Generator().manual_seed(self.step + 1_000_003 * self.args.seed)
        warm = min(1.0, (self.step + 1) / self.steps)
        for group in self.optimizer.param_groups:
            group['lr'] = self.args.lr * warm * (1 + math.cos(math.pi * self.step / self.total)) / 2
        target = F.one_hot(self.data.labels[index], self.classes) * 0.9 + 0.1 / self.classes
        if self.soft is not None:
            target = (target + self.soft[index].float()) / 2
        images = augment(self.data.get(index), size, generator)
        share = float(torch.rand((), generator=generator) ** 3 / 2)  # of another image: mostly little
        images = images.lerp(images.flip(0), share)
        target = target.lerp(target.flip(0), share)
        self.model.train()
        torch.manual_seed(self.step)  # for dropout
        loss = F.cross_entropy(self.model(images), target)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        self.step += 1
        keep = min(0.9995, self.step / (9 + self.step))
        for mean, value in zip(self.average.state_dict().values(), self.model.state_dict().values()):
            if mean.is_floating_point():
                mean.lerp_(value, 1 - keep)
            else:
                mean.copy_(value)
        return float(loss.detach())


def expand(part: str) -> list[int]:
    """Return the size of each epoch of ``PIXELS:EPOCHS``."""
    size, epochs = part.split(':')
    return [int(size)] * int(epochs)


def halve(tensors: dict[str, Tensor], out: Path) -> None:
    """Write tensors in half precision, as they come with the package."""
    halves = {key: value.half() if value.is_floating_point() else value for key, value in tensors.items()}
    with atomic(out) as partial:
        save_file({k: value.contiguous().clone() for k, value in halves.items()}, partial, {'format': 'pt'})


def main() -> None:
    form = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=form)
    commands = parser.add_subparsers(dest='command', required=True)
    command = commands.add_parser('pack')
    command.add_argument('folder', type=Path)
    command.add_argument('cache', type=Path)
    command = commands.add_parser('teach')
    command.add_argument('cache', type=Path)
    command.add_argument('weights', type=Path)
    command = commands.add_parser('train')
    command.add_argument('cache', type=Path)
    command.add_argument('-o', '--out', type=Path, required=True)
    command.add_argument('--network', default='ghostnet_100')
    command.add_argument('--sizes', nargs='+', default=['64:12', '96:8'], metavar='PIXELS:EPOCHS')
    command.add_argument('--batch-size', type=int, default=128)
    command.add_argument('--lr', type=float, default=0.15)
    command.add_argument('--weight-decay', type=float, default=5e-5)
    command.add_argument('--seed', type=int, default=0)
    command = commands.add_parser('halve')
    command.add_argument('checkpoint', type=Path)
    command.add_argument('-o', '--out', type=Path, required=True)
    args = parser.parse_args()
    if args.command == 'pack':
        pack(args.folder, args.cache)
    elif args.command == 'teach':
        teach(args.cache, args.weights)
    elif args.command == 'halve':
        halve(read_tensors(args.checkpoint), args.out)
    else:
        Training(args).run()


if __name__ == '__main__':
    main()
