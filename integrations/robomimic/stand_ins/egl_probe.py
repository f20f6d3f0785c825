"""Stand-in for egl_probe, which has to be compiled: robomimic 0.3.0 asks it which GPU can draw."""


def get_available_devices() -> list[int]:
    """No device by number: robosuite then chooses one itself."""
    return []
