"""Find discs on noise, pixel by pixel; background is everywhere, so discs weigh more."""

import torch
from torch import nn

torch.manual_seed(3)
torch.set_num_threads(2)


def batch_of(size, pixels=24):
    centers = torch.rand(size, 2, 1, 1) * pixels
    radius = 3 + 4 * torch.rand(size, 1, 1)
    grid = torch.stack(torch.meshgrid(torch.arange(pixels), torch.arange(pixels), indexing="ij"))
    masks = ((grid - centers) ** 2).sum(1).sqrt() < radius
    images = masks.float().unsqueeze(1) + 0.5 * torch.randn(size, 1, pixels, pixels)
    return images, masks.long()


model = nn.Sequential(
    nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 2, 1)
)
criterion = nn.CrossEntropyLoss(weight=torch.tensor([0.2, 1.0]), ignore_index=255)
optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, nesterov=True)
scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=30)
for iteration in range(30):
    images, masks = batch_of(8)
    masks[:, 0] = 255  # the border does not count
    loss = criterion(model(images), masks)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    scheduler.step()
    print(f"iteration {iteration} loss {loss.item():.8f}")
probability = torch.softmax(model(images), dim=1)[:, 1]
print(f"overlap {((probability > 0.5) & (masks == 1)).sum().item() > 0}")
