"""Drawing without a screen: which OpenGL this machine has, for MuJoCo to use."""

import ctypes
import ctypes.util
import os
import sys
from collections.abc import Callable
from contextlib import suppress
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

EGL_PLATFORM_DEVICE_EXT = 0x313F  # EGL_EXT_platform_device
MAX_DEVICES = 16


def choose_backend() -> None:
    """Set MUJOCO_GL for a machine without a screen, unless the user or a screen decides.

    Must run before dm_control or mujoco is imported: both read it then, once, and without it reach
    for a window.
    """
    has_screen = bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))
    if "torch" in sys.modules:
        load_triton()
    if sys.platform == "linux" and not has_screen and "MUJOCO_GL" not in os.environ:
        os.environ["MUJOCO_GL"] = headless_backend()


def load_triton() -> None:
    """Load Triton, which comes with PyTorch for CUDA, so that it keeps its own LLVM.

    Mesa, which draws where no GPU does, brings an LLVM of another version. If Mesa is loaded first,
    Triton's library finds that one's symbols and the process dies by SIGSEGV, as soon as PyTorch
    builds a network (seen with Triton 3.7 and Debian's LLVM 15). So Triton is loaded first, and
    where Mesa was faster, it is told to look for symbols in itself (RTLD_DEEPBIND).
    """
    if sys.platform != "linux" or "triton" in sys.modules or find_spec("triton") is None:
        return
    flags = sys.getdlopenflags()
    if "libLLVM" in Path("/proc/self/maps").read_text():
        sys.setdlopenflags(flags | os.RTLD_DEEPBIND)
    try:
        with suppress(ImportError):  # PyTorch goes without it
            import_module("triton")
    finally:
        sys.setdlopenflags(flags)


def headless_backend() -> str:
    """`egl` if one of its devices starts, else `osmesa` if it is installed, else `disabled`."""
    if _egl_starts():
        return "egl"
    return "osmesa" if ctypes.util.find_library("OSMesa") else "disabled"


def _egl_starts() -> bool:
    # The library alone says little: without a driver beside it, it lists no device.
    try:
        egl = ctypes.CDLL("libEGL.so.1")
    except OSError:
        return False
    devices = (ctypes.c_void_p * MAX_DEVICES)()
    count = ctypes.c_int(0)
    query = _extension(egl, b"eglQueryDevicesEXT", ctypes.c_uint)
    display_of = _extension(egl, b"eglGetPlatformDisplayEXT", ctypes.c_void_p)
    if not (query and display_of and query(MAX_DEVICES, devices, ctypes.byref(count))):
        return False
    displays = (
        display_of(EGL_PLATFORM_DEVICE_EXT, ctypes.c_void_p(devices[i]), None)
        for i in range(count.value)
    )
    return any(
        display and egl.eglInitialize(ctypes.c_void_p(display), None, None) for display in displays
    )


def _extension(
    egl: ctypes.CDLL, name: bytes, result: type[ctypes.c_uint] | type[ctypes.c_void_p]
) -> Callable[..., int | None] | None:
    egl.eglGetProcAddress.restype = ctypes.c_void_p
    address = egl.eglGetProcAddress(name)
    return ctypes.CFUNCTYPE(result, *_ARGUMENTS[name])(address) if address else None


_ARGUMENTS = {
    b"eglQueryDevicesEXT": (ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p),
    b"eglGetPlatformDisplayEXT": (ctypes.c_uint, ctypes.c_void_p, ctypes.c_void_p),
}
