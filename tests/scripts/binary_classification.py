"""Benign or malignant: breast cancer data."""

import torch
from sklearn.datasets import load_breast_cancer
from sklearn.preprocessing import StandardScaler
from torch.nn import BatchNorm1d, BCEWithLogitsLoss, Linear, ReLU, Sequential
from torch.optim import RMSprop

torch.manual_seed(7)
features, target = load_breast_cancer(return_X_y=True)
x = torch.from_numpy(StandardScaler().fit_transform(features)).float()
y = torch.from_numpy(target).float().unsqueeze(1)

model = Sequential(Linear(30, 32), BatchNorm1d(32), ReLU(), Linear(32, 1))
loss_fn = BCEWithLogitsLoss(pos_weight=torch.tensor([0.6]))
opt = RMSprop([{"params": model[0].parameters(), "lr": 1e-3}, {"params": model[1:].parameters()}], lr=5e-4)

for step in range(80):

    def closure():
        opt.zero_grad()
        loss = loss_fn(model(x), y)
        loss.backward()
        return loss

    loss = opt.step(closure)
    if step % 8 == 0:
        print(f"step {step} loss {loss.item():.8f}")
correct = ((model(x) > 0) == y.bool()).float().mean().item()
print(f"accuracy {correct:.2f}")
