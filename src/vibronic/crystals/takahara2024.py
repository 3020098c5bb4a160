"""The diffusion transformer for crystals as published by Takahara, Shibata and Mizoguchi (arXiv 2406.09263, v2).

Lattice, coordinates and species are corrupted together (``corruption.py``) and denoised by one transformer, which takes the
wanted property either in its input (condition-dependent initialisation, CDI) or in the queries, keys and values of every block
(condition-dependent self-attention, CDS). There is no guidance.

The paper leaves open what the defaults of :class:`CrystalDiffusion2024` settle, and further: two layers
with SiLU in every MLP, hidden width d (4 d behind the attention); alpha and beta of each head their own; y standardised; the
score divided by its root mean square (the same loss, see :class:`WrappedDiffusion`); a Langevin step of 1e-5 as in DiffCSP
(Jiao 2023); clean lattices estimated while sampling no larger than those of the training set; no species but those of the training set; the
loss of an atom divided by the atoms of the batch; the divergence of species multiplied by T, for the sum over all steps that one of them stands for; a crystal's origin as in the data.
"""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from vibronic.core.batch import Batch
from vibronic.core.errors import VibronicError
from vibronic.crystals.cells import Cells
from vibronic.crystals.conditioning import EQUAL, Asked
from vibronic.crystals.corruption import GaussianDiffusion, UniformDiffusion, WrappedDiffusion, sinusoidal
from vibronic.crystals.generator import CLASSES, CrystalGenerator, Progress
from vibronic.crystals.schedules import strided

WEIGHTS = {"lattice": 1.0, "coordinates": 1.0, "species": 1.0, "cross_entropy": 0.01}
"""Of the parts of the loss; the divergence of species is summed over all T steps, as in the bound on the likelihood."""


def mlp(inner: int, hidden: int, outer: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(inner, hidden), nn.SiLU(), nn.Linear(hidden, outer))


class RelativePositions(nn.Module):
    """Hidden layers of every block's alpha and beta, all in one product.

    The Fourier features of f_j - f_i and f_i - f_j differ in the sign of the sines, so that half the pairs are enough; the
    lattice is the same for all pairs of a crystal.
    """

    def __init__(self, frequencies: int, width: int) -> None:
        super().__init__()
        self.register_buffer("turns", 2 * torch.pi * torch.arange(frequencies).float(), persistent=False)
        self.sine = nn.Linear(3 * frequencies, width, bias=False)
        self.cosine = nn.Linear(3 * frequencies, width, bias=False)
        self.metric = nn.Linear(9, width)

    turns: Tensor

    def forward(self, fractional: Tensor, lattice: Tensor) -> Tensor:
        """(B, N, N, width) for coordinates (B, N, 3) and lattice vectors as rows (B, 3, 3)."""
        batch, n, _ = fractional.shape
        i, j = torch.triu_indices(n, n, 1, device=fractional.device)
        phase = ((fractional[:, j] - fractional[:, i]).unsqueeze(-1) * self.turns).flatten(-2)
        odd, even = self.sine(phase.sin()), self.cosine(phase.cos())
        same = self.cosine.weight.sum(1).expand(batch, n, -1)
        lower, upper = even - odd, even + odd
        place = torch.zeros(n, n, dtype=torch.long, device=fractional.device)
        place[i, j] = torch.arange(len(i), device=place.device)
        place[j, i] = len(i) + place[i, j]
        place.fill_diagonal_(2 * len(i))
        pairs = torch.cat([upper, lower, same[:, :1]], 1)[:, place.flatten()].view(batch, n, n, -1)
        return nn.functional.silu(pairs + self.metric((lattice @ lattice.mT).flatten(1))[:, None, None])


class Block(nn.Module):
    """A post-norm block: attention with relative positions, then an MLP."""

    def __init__(self, width: int, heads: int, attends_to_condition: bool) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * heads * width)
        self.asked = nn.Linear(width, 3 * heads * width, bias=False) if attends_to_condition else None
        self.alpha = nn.Linear(width, heads)
        self.beta = nn.Linear(width, heads * width)
        self.out = nn.Linear(heads * width, width)
        self.mlp = mlp(width, 4 * width, width)
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(2))

    def forward(self, z: Tensor, condition: Tensor, alpha: Tensor, beta: Tensor, absent: Tensor) -> Tensor:
        """z (B, N, d), condition (B, d), hidden layers of alpha and beta (B, N, N, d), absent (B, 1, 1, N)."""
        batch, n, width = z.shape
        qkv = self.qkv(z)
        if self.asked is not None:
            qkv = qkv + self.asked(condition)[:, None]
        q, k, v = qkv.view(batch, n, 3, self.heads, width).permute(2, 0, 3, 1, 4)
        logits = q @ k.mT * width**-0.5 + self.alpha(alpha).permute(0, 3, 1, 2)
        attention = torch.softmax(logits.masked_fill(absent, -1e9), -1)
        # sum_j a_ij beta_ij with beta's last layer, which is linear, taken out of the sum over j.
        seen = attention.transpose(1, 2) @ beta
        weight = self.beta.weight.view(self.heads, width, width)
        values = (
            attention @ v + torch.einsum("bihp,hdp->bhid", seen, weight) + self.beta.bias.view(self.heads, 1, width)
        )
        z = self.norms[0](self.out(values.transpose(1, 2).reshape(batch, n, -1)) + z)
        return self.norms[1](self.mlp(z) + z)


class CrystalDiffusion2024(CrystalGenerator):
    """The published model.

    Args:
        targets: properties that crystals are asked for; the paper has one.
        units: of targets that Vibronic does not know.
        condition: cdi or cds.
        width, depth, heads: d, D and the heads, each of width d.
        frequencies: of the Fourier features, 0 ... frequencies - 1.
        steps, smallest, largest, langevin: T, sigma_1 and sigma_T in fractional coordinates, and the corrector's step.
        bounded: whether sampling scales estimates of clean lattices back to the largest of the training set. The paper does not say what it
            does where a young model's first steps make a gas of a crystal; False leaves them.
    """

    kind = "takahara2024"
    evaluations = 2000
    recipe: ClassVar[dict[str, Any]] = {
        "epochs": 3000,
        "batch_size": 256,
        "learning_rate": 1e-3,
        "weight_decay": 0.0,
        "warmup": 0.0,
        "ema": 0.0,
        "clip": 0.5,
        "schedule": "plateau",
        "optimizer": "adam",
    }

    def __init__(
        self,
        targets: list[str],
        units: dict[str, str] | None = None,
        condition: Literal["cdi", "cds"] = "cds",
        width: int = 128,
        depth: int = 6,
        heads: int = 3,
        frequencies: int = 128,
        steps: int = 1000,
        smallest: float = 0.005,
        largest: float = 0.5,
        langevin: float = 1e-5,
        bounded: bool = True,
    ) -> None:
        config = {k: v for k, v in locals().items() if k not in ("self", "targets", "units", "__class__")}
        super().__init__(config, targets, units)
        if condition not in ("cdi", "cds"):
            raise VibronicError(f"condition must be cdi or cds, not {condition!r}")
        self.condition, self.steps, self.langevin, self.bounded = condition, steps, langevin, bounded
        self.gaussian = GaussianDiffusion(steps)
        self.wrapped = WrappedDiffusion(steps, smallest, largest)
        self.uniform = UniformDiffusion(steps, CLASSES)
        self.width = width
        self.asked = nn.Linear(len(targets), width) if targets else None
        self.context = mlp(2 * width, width, width)
        self.atoms = nn.Sequential(nn.Embedding(CLASSES, width), nn.SiLU(), nn.Linear(width, width))
        self.initial = mlp(2 * width, width, width) if condition == "cdi" else None
        self.relative = RelativePositions(frequencies, 2 * depth * width)
        self.blocks = nn.ModuleList(Block(width, heads, condition == "cds") for _ in range(depth))
        self.noise_of_lattice, self.score, self.species = (mlp(width, width, n) for n in (9, 3, CLASSES))
        self.register_buffer("mean", torch.zeros(len(targets)))
        self.register_buffer("spread", torch.ones(len(targets)))

    mean: Tensor
    spread: Tensor

    def prepare(self, batch: Batch) -> None:
        super().prepare(batch)
        values = self.values(batch)
        self.mean = values.mean(0)
        self.spread = (values - self.mean).square().mean(0).sqrt().clamp(min=1e-6)

    def denoise(self, cells: Cells, t: Tensor, values: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Noise of the lattice (B, 3, 3), score over its scale (B, N, 3), logits of the clean species (B, N, K).

        Args:
            cells: corrupted crystals.
            t: (B,) times, 1 to T.
            values: (B, P) wanted properties.
        """
        mask, width = cells.mask, self.width
        asked = values.new_zeros(len(values), width)
        if self.asked is not None:
            asked = self.asked((values - self.mean) / self.spread)
        condition = self.context(torch.cat([sinusoidal(t, width), asked], -1))
        z = self.atoms((cells.numbers - 1).clamp(min=0))
        if self.initial is not None:
            z = self.initial(torch.cat([z, condition[:, None].expand_as(z)], -1))
        hidden = self.relative(cells.fractional, cells.lattice).split(width, -1)
        absent = ~mask[:, None, None]
        for k, block in enumerate(self.blocks):
            z = block(z, condition, hidden[2 * k], hidden[2 * k + 1], absent)
        mean = (z * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)
        # L phi for lattice vectors as columns is phi^T L for rows: it turns with the lattice.
        noise = self.noise_of_lattice(mean).view(-1, 3, 3) @ cells.lattice
        return noise, self.score(z), self.species(z)

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        cells, device = Cells.from_batch(batch), batch.cell.device
        generator = None if self.training else torch.Generator(device).manual_seed(0)
        mask, a = cells.mask, (cells.numbers - 1).clamp(min=0)
        t = torch.randint(1, self.steps + 1, (len(mask),), device=device, generator=generator)
        noise = torch.randn(cells.lattice.shape, device=device, generator=generator)
        shake = torch.randn(cells.fractional.shape, device=device, generator=generator)
        fractional = self.wrapped(cells.fractional, t, shake)
        corrupted = torch.multinomial(self.uniform.probabilities(a, t).flatten(0, 1), 1, generator=generator).view_as(a)
        noisy = Cells((corrupted + 1) * mask, fractional, self.gaussian(cells.lattice, t, noise))
        noise_found, score, logits = self.denoise(noisy, t, self.values(batch))
        per_atom = mask / mask.sum()
        target = self.wrapped.target(fractional, cells.fractional, t)
        known = nn.functional.one_hot(a, CLASSES).to(logits.dtype)
        true, found = (self.uniform.posterior(corrupted, p, t, t - 1) for p in (known, logits.softmax(-1)))
        divergence = (true * (true.clamp(min=1e-20).log() - found.clamp(min=1e-20).log())).sum(-1)
        entropy = nn.functional.cross_entropy(logits.flatten(0, 1), a.flatten(), reduction="none").view_as(divergence)
        figures = {
            "lattice": ((noise_found - noise) ** 2).mean(),
            "coordinates": (((score - target) ** 2).mean(-1) * per_atom).sum(),
            "species": self.steps * (divergence * per_atom).sum(),
            "cross_entropy": (entropy * per_atom).sum(),
        }
        return {"loss": sum((WEIGHTS[k] * v for k, v in figures.items()), torch.zeros((), device=device)), **figures}

    def check(self, asked: Asked, guidance: float) -> None:
        """Refuse what the published model was not trained for.

        Raises:
            VibronicError: says what it can be asked for.
        """
        if (asked.kind != EQUAL).any() or asked.spacegroup.any():
            names = ", ".join(t.name for t in self.targets)
            raise VibronicError(
                f"the published model needs a value of {names}, and takes neither bounds nor space groups"
            )
        if guidance != 1:
            raise VibronicError(f"the published model has no guidance: leave it at 1, not {guidance:g}")

    def _bounded(self, lattice: Tensor) -> Tensor:
        """Estimates of clean lattices (B, 3, 3), scaled back where they are larger than any of the training set.

        At the first steps an error of the noise counts 10,000 times in the lattice, and nothing later brings a crystal back
        that has become a gas. Scaling leaves the directions alone, so that a turned lattice stays a turned one.
        """
        if not self.bounded:
            return lattice
        size = lattice.norm(dim=(1, 2), keepdim=True)
        return lattice * (self.memory.lattice.norm(dim=(1, 2)).max() / size).clamp(max=1)

    @torch.no_grad()
    def sample(
        self,
        species: Tensor,
        allowed: Tensor,
        asked: Asked,
        evaluations: int,
        guidance: float,
        generator: torch.Generator,
        progress: Progress,
        templates: Cells | None = None,
    ) -> tuple[Cells, Tensor]:
        self.check(asked, guidance)
        mask, given = species != 0, species > 0
        device, b = species.device, len(species)

        def normal(*shape: int) -> Tensor:
            return torch.randn(*shape, device=device, generator=generator)

        def draw(p: Tensor) -> Tensor:
            return torch.multinomial(p.flatten(0, 1), 1, generator=generator).view(b, -1)

        lattice, fractional = normal(b, 3, 3), torch.rand(*mask.shape, 3, device=device, generator=generator)
        a = torch.randint(0, CLASSES, mask.shape, device=device, generator=generator)
        for before, after in strided(self.steps, max(1, evaluations // 2)):
            t, s = torch.full((b,), before, device=device), torch.full((b,), after, device=device)
            if given.any():  # what is known is corrupted as it would have been
                a = torch.where(given, draw(self.uniform.probabilities((species - 1).clamp(min=0), t)), a)
            cells = Cells((a + 1) * mask, fractional, lattice)
            noise, score, logits = self.denoise(cells, t, asked.value)
            clean = logits.masked_fill(~allowed, -torch.inf).softmax(-1)
            a = draw(self.uniform.posterior(a, clean, t, s))
            mean, variance = self.gaussian.posterior(
                lattice, self._bounded(self.gaussian.clean(lattice, noise, t)), t, s
            )
            lattice = mean + variance.sqrt() * normal(b, 3, 3)
            fractional = self.wrapped.step(fractional, score, t, s, normal(*fractional.shape))
            progress(1)
            if after and evaluations > 1:
                cells = Cells((a + 1) * mask, fractional, lattice)
                _, score, _ = self.denoise(cells, s, asked.value)
                fractional = self.wrapped.correct(fractional, score, s, normal(*fractional.shape), self.langevin)
            progress(1)
        numbers = torch.where(given, species, (a + 1) * mask)
        unknown = torch.full((b, len(self.targets)), torch.nan)
        return Cells(numbers, fractional, lattice), unknown
