"""medldm: latent diffusion for medical images, from the scan to a restoration that can be trusted and back.

Reading order: geometry, volume, io, intensity; operators, nets, diffusion, space, model; restoration/restore.py, top
to bottom; training. The public names are in `__init__.pyi`; each is imported on first use, so that importing medldm is
quick.
"""

import lazy_loader

__version__ = "0.2.0"

__getattr__, _, _names = lazy_loader.attach_stub(__name__, __file__)
__all__ = ["__version__", *_names]


def __dir__() -> list[str]:
    return sorted(__all__)
