"""The page of ``walloc demo``: what latents keep of an image or a sound, beside a resized copy."""

from .server import DemoServer

__all__ = ["DemoServer"]
