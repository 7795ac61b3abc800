"""An emulator of image providers: OpenRouter's image, chat and discovery routes, and OpenAI's image route.

It speaks real HTTP, draws real images, fails the way the real thing does when told to, and keeps a bill that a test can
read. It knows nothing of Pixorly. `pixorly-emulator --help` lists every fault; `docs/emulator.md` has the rest.
"""

from pixorly_emulator.app import Options, create_app
from pixorly_emulator.serving import Running, serving

__all__ = ["Options", "Running", "create_app", "serving"]
