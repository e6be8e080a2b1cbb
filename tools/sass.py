"""What the compiler made of the CUDA kernels: registers, stack, and how wide their accesses are.

``python tools/sass.py`` writes docs/cuda_kernels.md for the installed ``fusestep._cuda``, or for the object
or library named. No device is needed. Needs cuobjdump and nvdisasm: in PATH, or from the PyPI packages
nvidia-cuda-cuobjdump and nvidia-cuda-nvdisasm.
"""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

REPORT = Path(__file__).resolve().parents[1] / "docs" / "cuda_kernels.md"
ARCH = "sm_90"  # whose instructions are looked at


@dataclass(frozen=True)
class Kernel:
    """A kernel for one architecture."""

    arch: str
    name: str  # such as `rowwise_kernel<HeldRow<float, 8, false, true>, CrossEntropyLoss<float>>`
    registers: int
    stack: int  # bytes; spilled registers lie there
    local: int


@dataclass(frozen=True)
class Code:
    """The instructions of a kernel."""

    instructions: int
    loads: int  # of 128 bits from global memory
    stores: int
    spills: int  # loads and stores of local memory


def find_tool(name: str) -> Path | None:
    """In PATH, or among the installed packages."""
    places = [Path(found).parent for found in [shutil.which(name)] if found]
    places += [Path(folder) / "nvidia" / "cu13" / "bin" for folder in sys.path]
    return next((place / name for place in places if (place / name).exists()), None)


def installed() -> Path | None:
    """The CUDA engine that ``import fusestep`` would use."""
    found = importlib.util.find_spec("fusestep._cuda")
    return Path(found.origin) if found and found.origin else None


def _cuobjdump(*arguments: str | Path) -> str:
    cuobjdump, nvdisasm = find_tool("cuobjdump"), find_tool("nvdisasm")
    if cuobjdump is None or nvdisasm is None:
        raise RuntimeError("no cuobjdump or no nvdisasm: see the PyPI packages named above")
    path = os.pathsep.join([os.environ["PATH"], str(nvdisasm.parent)])
    command = [str(part) for part in (cuobjdump, *arguments)]
    done = subprocess.run(command, env={**os.environ, "PATH": path}, capture_output=True, text=True)
    if done.returncode != 0:
        raise RuntimeError(done.stdout + done.stderr)
    return done.stdout


def _readable(mangled: list[str]) -> list[str]:
    """Demangled, without what all have in common."""
    text = subprocess.run(["c++filt"], input="\n".join(mangled), capture_output=True, text=True, check=True)
    names = []
    for line in text.stdout.splitlines():
        name = re.sub(r"fusestep::(cuda::)?|^(static )?void ", "", line)
        name = re.sub(r"\(Access\)(\d)", lambda m: ("plain", "packed", "any")[int(m[1])], name)
        depth, end = 0, len(name)  # the parameters begin at the first parenthesis outside <…>
        for i, character in enumerate(name):
            depth += (character == "<") - (character == ">")
            if character == "(" and depth == 0:
                end = i
                break
        names.append(name[:end].replace("> >", ">>"))
    return names


def kernels(library: Path) -> list[Kernel]:
    """Every kernel of every architecture in it."""
    text = _cuobjdump("-res-usage", library)
    found = []
    for part in re.split(r"^arch = ", text, flags=re.M)[1:]:
        arch = part.split()[0]
        usage = re.findall(r"Function (\w+):\s+REG:(\d+) STACK:(\d+) .*?LOCAL:(\d+)", part)
        names = _readable([mangled for mangled, *_ in usage])
        found += [
            Kernel(arch, name, int(registers), int(stack), int(local))
            for name, (_, registers, stack, local) in zip(names, usage, strict=True)
        ]
    return found


def code(library: Path) -> dict[str, Code]:
    """The instructions of each kernel for ARCH."""
    text = _cuobjdump("-sass", "-arch", ARCH, library)
    parts = text.split("Function : ")[1:]
    names = _readable([part.split()[0] for part in parts])
    found = {}
    for name, part in zip(names, parts, strict=True):
        opcodes = re.findall(r"/\*[0-9a-f]{4,5}\*/\s+(?:@!?U?P\w+ )?([A-Z][\w.]*)", part)
        loads, stores = (
            sum(op.startswith(kind) and "128" in op for op in opcodes) for kind in ("LDG", "STG")
        )
        spills = sum(op.startswith(("LDL", "STL")) for op in opcodes)
        found[name] = Code(len(opcodes), loads, stores, spills)
    return found


def report(library: Path) -> str:
    """docs/cuda_kernels.md."""
    instructions, found = code(library), kernels(library)
    archs = sorted({kernel.arch for kernel in found}, key=lambda arch: int(arch[3:]))
    lines = [
        "# The CUDA kernels, as compiled",
        "",
        "Written by `python tools/sass.py`. Registers a thread, for each architecture; instructions and",
        f"accesses of 128 bits to global memory as they stand in the code for {ARCH}, where a loop counts",
        "once. No kernel has a stack, so none spills a register: tests/test_cuda_build.py. This says what",
        "was compiled, not that it ran.",
        "",
        f"| kernel | {' | '.join(archs)} | instructions | 128-bit loads | stores |",
        f"|---|{'---|' * (len(archs) + 3)}",
    ]
    for name in sorted(instructions):
        registers = {kernel.arch: kernel.registers for kernel in found if kernel.name == name}
        counted = instructions[name]
        cells = [f"`{name}`", *(str(registers[arch]) for arch in archs)]
        cells += [str(counted.instructions), str(counted.loads), str(counted.stores)]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    target = Path(sys.argv[1]) if len(sys.argv) > 1 else installed()
    if target is None:
        print(f"fusestep was built without its CUDA engine: {REPORT.name} stays as it is")
    else:
        REPORT.write_text(report(target))
