"""Tests of our C libraries, which are programs in C."""

load("@rules_cc//cc:defs.bzl", "cc_test")

# All warnings that the interfaces promise to be free of.
WARNINGS = [
    "-Wall",
    "-Wextra",
    "-Wconversion",
    "-Werror",
]

C = [
    "-std=gnu11",
    "-D_GNU_SOURCE",
] + WARNINGS

# Also what is still allocated at the end is an error.
SANITIZE_ENV = {"ASAN_OPTIONS": "detect_leaks=1:detect_stack_use_after_return=1"}

def c_test(name, sanitize, deps, deps_asan = None, srcs = None, **kwargs):
    """Makes <name>_test of <name>_test.c, and <name>_asan, the same under sanitizers.

    Args:
      name: what the file is called, without _test.c.
      sanitize: the flags of the sanitizers, for compiling and linking.
      deps: of the test.
      deps_asan: of the other one; None: the same.
      srcs: None: the file alone.
      **kwargs: cc_test's.
    """
    for asan in [False, True]:
        cc_test(
            name = name + ("_asan" if asan else "_test"),
            size = "medium",
            srcs = srcs or [name + "_test.c"],
            copts = C + (sanitize if asan else []),
            env = SANITIZE_ENV if asan else {},
            linkopts = sanitize if asan else [],
            deps = deps_asan if asan and deps_asan else deps,
            **kwargs
        )

def header_tests(library):
    """Has header_test.c compiled by the standards that a header promises to keep to."""
    native.genrule(
        name = "header_cc",
        srcs = ["header_test.c"],
        outs = ["header_test.cc"],
        cmd = "cp $< $@",
    )
    for std in ["c89", "c99", "c11", "c++98", "c++17"]:
        cc_test(
            name = "header_" + std.replace("c++", "cpp") + "_test",
            size = "small",
            srcs = ["header_test.cc" if "+" in std else "header_test.c"],
            copts = [
                "-std=" + std,
                "-pedantic",
            ] + WARNINGS,
            deps = [library],
        )
