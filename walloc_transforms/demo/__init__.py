"""The page of ``walloc demo``: what latents keep of an image or a sound, beside resizing it to as many values."""

from .server import DemoServer

__all__ = ["DemoServer"]
