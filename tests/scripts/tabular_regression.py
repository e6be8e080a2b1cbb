"""Predict the progression of diabetes from ten measurements."""

import torch
import torch.nn as nn
import torch.optim as optim
from sklearn.datasets import load_diabetes
from sklearn.model_selection import train_test_split
from torch.utils.data import DataLoader, TensorDataset

torch.manual_seed(42)
features, target = load_diabetes(return_X_y=True)
target = (target - target.mean()) / target.std()
x_train, x_test, y_train, y_test = (
    torch.tensor(part, dtype=torch.float32) for part in train_test_split(features, target, random_state=0)
)
loader = DataLoader(TensorDataset(x_train, y_train.unsqueeze(1)), batch_size=64, shuffle=True)


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(10, 16), nn.LeakyReLU(), nn.Linear(16, 8), nn.LeakyReLU(), nn.Linear(8, 1)
        )

    def forward(self, x):
        return self.layers(x)


model = Net()
criterion = nn.MSELoss()
optimizer = optim.Adam(model.parameters(), lr=1e-3, weight_decay=1e-4)
for epoch in range(60):
    running = 0.0
    for inputs, targets in loader:
        optimizer.zero_grad()
        loss = criterion(model(inputs), targets)
        loss.backward()
        optimizer.step()
        running += loss.item() * len(inputs)
    print(f"epoch {epoch} loss {running / len(x_train):.8f}")
with torch.no_grad():
    print(f"test loss {criterion(model(x_test), y_test.unsqueeze(1)).item():.8f}")
