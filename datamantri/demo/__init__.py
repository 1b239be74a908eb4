"""Real tables for the demo: loaded into the emulator, moved by the real worker, compared on both sides."""
