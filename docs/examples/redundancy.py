"""Count the maps of an ordinary network that are ghosts of others, on the generated sample.

`python docs/examples/redundancy.py` takes about three minutes on one core, and draws maps of the trained
network into redundancy.png.
"""

import json
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torchvision.models import resnet18
from torchvision.transforms import Normalize

from ghost_det.data.sample import make_sample
from ghost_det.visualization import Network, draw_redundancy, maps_at, redundancy, save_figure

FOLDER = make_sample()
SCALE = Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


def crops(split: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Return each object of the sample, with a margin, as 64 x 64 pixels, and its class."""
    content = json.loads((FOLDER / f'annotations/instances_{split}.json').read_text())
    files = {image['id']: FOLDER / split / image['file_name'] for image in content['images']}
    pixels, labels = [], []
    for each in content['annotations']:
        x, y, width, height = each['bbox']
        reach = 0.7 * max(width, height)
        middle = np.array([x + width / 2, y + height / 2])
        corners = (*(middle - reach), *(middle + reach))
        with Image.open(files[each['image_id']]) as image:
            pixels.append(np.asarray(image.crop(tuple(map(round, corners))).resize((64, 64))))
        labels.append(each['category_id'])
    stacked = torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2) / 255
    return SCALE(stacked), torch.tensor(labels) - min(labels)


def trained(epochs: int = 3, batch: int = 32) -> torch.nn.Module:
    """Return a ResNet-18 trained to classify the sample's objects."""
    model = resnet18(num_classes=6)
    images, labels = crops('train2017')
    steps = epochs * (len(images) // batch)
    optimizer = torch.optim.SGD(model.parameters(), 0.05, momentum=0.9, weight_decay=5e-4)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.05, total_steps=steps)
    for _ in range(epochs):
        for places in torch.randperm(len(images)).split(batch)[: len(images) // batch]:
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(model(images[places]), labels[places]).backward()
            optimizer.step()
            schedule.step()
    images, labels = crops('val2017')
    with torch.no_grad():
        right = model.eval()(images).argmax(1) == labels
    print(f'{right.float().mean():.1%} of {len(labels)} unseen objects are classified correctly')
    return model


def main() -> None:
    """Print the shares for both networks, and draw."""
    torch.manual_seed(0)
    untrained = resnet18(num_classes=6)
    untrained.train()  # its norms have no statistics but those of the image
    image = Image.open(min((FOLDER / 'val2017').glob('*.jpg'))).convert('RGB')
    for name, model in (('trained', trained()), ('untrained', untrained)):
        network = Network(name, model, False, ())
        for layer in ('layer1', 'layer2'):
            maps = maps_at(network, image, layer).values
            found = redundancy(maps)
            shares = ', '.join(f'{size} x {size}: {found.share(size):.1%}' for size in found.errors)
            print(f'{name}, {layer}, maps that another one makes: {shares}')
            if (name, layer) == ('trained', 'layer1'):
                save_figure(draw_redundancy(maps, found, title='ResNet-18: layer1'), Path('redundancy.png'))


if __name__ == '__main__':
    main()
