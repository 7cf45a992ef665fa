"""What the machine is, and its rates, measured: matrix products, convolutions, copies, launches."""

import platform
import subprocess
import sys

import torch
import torch.nn.functional as F

from benchmarks.on_gpu.report import Report
from benchmarks.on_gpu.setting import Setting, seconds_of

FORMATS = {"bf16": torch.bfloat16, "tf32": torch.float32, "float32": torch.float32}


def measure(setting: Setting, report: Report) -> None:
    """The card, the software, the rates."""
    device = setting.device
    report.fact("python", platform.python_version())
    report.fact("torch", torch.__version__)
    if device.type == "cuda":
        card = torch.cuda.get_device_properties(device)
        report.fact("card", card.name)
        report.fact("multiprocessors", card.multi_processor_count)
        report.fact("memory_GB", card.total_memory / 1e9)
        report.fact("cuda", torch.version.cuda)
        report.fact("cudnn", torch.backends.cudnn.version())
        report.fact("driver", _driver())
    else:
        report.fact("card", f"none: {platform.processor() or platform.machine()}, {torch.get_num_threads()} threads")
    for name, kind in FORMATS.items():
        report.fact(f"{name}_product_TFLOPs", _product(setting, name, kind))
    _convolutions(setting, report)
    count = 1 << (10 if setting.quick else 29)
    source = torch.rand(count, device=device)
    target = torch.empty_like(source)
    seconds, _ = seconds_of(lambda: target.copy_(source), setting)
    report.fact("copy_GB_per_second", 2 * source.nbytes / seconds / 1e9)  # read and written
    tiny = torch.zeros(1, device=device)
    seconds, _ = seconds_of(lambda: [tiny.add_(1) for _ in range(1000)], setting)
    report.fact("microseconds_a_launch", seconds * 1e3)


def _driver() -> str:
    words = ["nvidia-smi", "--query-gpu=driver_version,clocks.max.sm", "--format=csv,noheader"]
    try:
        return subprocess.run(words, capture_output=True, text=True, timeout=10, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError) as error:
        print(error, file=sys.stderr)
        return "unknown"


def _tf32(name: str) -> None:
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = name == "tf32"


def _product(setting: Setting, name: str, kind: torch.dtype) -> float:
    _tf32(name)
    n = 128 if setting.quick else 8192
    one, other = (torch.randn(n, n, device=setting.device, dtype=kind) for _ in range(2))
    return 2 * n**3 / seconds_of(lambda: one @ other, setting)[0] / 1e12


def _convolutions(setting: Setting, report: Report) -> None:
    """The 3x3 convolutions of PreActResNet-18, a batch of 512: forward, and the gradient at the images as attacks need.

    The fact ``bf16_convolution_TFLOPs`` is the rate over all four shapes, forward and gradient, channels last: what a
    step that did nothing else could reach.
    """
    torch.backends.cudnn.benchmark = True
    flops = time = 0.0
    for channels, side in ((8, 8),) if setting.quick else ((64, 32), (128, 16), (256, 8), (512, 4)):
        batch = 4 if setting.quick else 512
        work = 2 * batch * side**2 * channels**2 * 9
        cells = {}
        for name, form in (
            ("bf16", torch.channels_last), ("bf16", torch.contiguous_format), ("tf32", torch.channels_last),
        ):  # fmt: skip
            _tf32(name)
            shape, like = (batch, channels, side, side), {"device": setting.device, "dtype": FORMATS[name]}
            x = torch.randn(shape, **like).to(memory_format=form).requires_grad_()
            kernel = torch.randn(channels, channels, 3, 3, **like).to(memory_format=form)
            past = torch.randn(shape, **like).to(memory_format=form)
            with torch.no_grad():
                forward, _ = seconds_of(lambda x=x, w=kernel: F.conv2d(x, w, padding=1), setting)
            both, _ = seconds_of(
                lambda x=x, w=kernel, g=past: torch.autograd.grad(F.conv2d(x, w, padding=1), x, g), setting
            )
            suffix = name if form == torch.channels_last else f"{name}_channels_first"
            cells |= {suffix: work / forward / 1e12, f"{suffix}_and_gradient": 2 * work / both / 1e12}
            if suffix == "bf16":
                flops, time = flops + 2 * work, time + both
        report.row("TFLOP/s of 3x3 convolutions", channels=channels, side=side, batch=batch, **cells)
    report.fact("bf16_convolution_TFLOPs", flops / time / 1e12)
    torch.backends.cudnn.benchmark = False
