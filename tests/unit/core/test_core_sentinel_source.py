"""The sentinel's source runs on what boxes have: Python 3.8 and nothing else."""

from __future__ import annotations

import ast
import sys

from gpuwatch import sentinel

SOURCE = sentinel.source().decode()
TREE = ast.parse(SOURCE, feature_version=(3, 8))
NEWER = {
    "removeprefix", "removesuffix", "is_relative_to", "with_stem", "readlink_to", "hardlink_to", "file_digest", "to_thread",
    "timeout_at", "TaskGroup", "cache", "randbytes", "bit_count", "pidfd_open", "waitstatus_to_exitcode", "batched", "pairwise",
    "lcm", "nextafter", "ulp", "unparse", "splitroot", "listdrives", "exc_notes", "add_note", "EncodingWarning", "shutdown_default_executor",
    "process_cpu_count", "login_tty", "is_junction", "get_annotations", "fadvise",
}  # fmt: skip
"""Names that came to the standard library after 3.8."""
NEWER_MODULES = {"graphlib", "zoneinfo", "tomllib"}
NEWER_KEYWORDS = {
    "strict",
    "missing_ok_",
    "delete_on_close",
    "process_group",
    "umask",
    "user",
    "group",
    "extra_groups",
    "pipesize",
    "usedforsecurity",
}


class Bare(ast.NodeTransformer):
    """The program without its annotations, which Python 3.8 never evaluates."""

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST:
        node.returns = None
        for arg in [*node.args.args, *node.args.kwonlyargs, *node.args.posonlyargs]:
            arg.annotation = None
        self.generic_visit(node)
        return node

    def visit_AnnAssign(self, node: ast.AnnAssign) -> ast.AST | None:
        if node.value is None:
            return None
        return self.generic_visit(ast.copy_location(ast.Assign([node.target], node.value), node))


BARE = Bare().visit(ast.parse(SOURCE))


def test_annotations_are_never_evaluated() -> None:
    first = TREE.body[1]
    assert isinstance(first, ast.ImportFrom)
    assert (first.module, first.names[0].name) == ("__future__", "annotations")


def test_only_the_standard_library_of_old_is_imported() -> None:
    imported = {
        n.name.partition(".")[0] for x in ast.walk(TREE) if isinstance(x, ast.Import) for n in x.names
    }
    imported |= {str(x.module).partition(".")[0] for x in ast.walk(TREE) if isinstance(x, ast.ImportFrom)}
    assert imported <= sys.stdlib_module_names
    assert not imported & NEWER_MODULES


def test_nothing_is_called_that_came_after_3_8() -> None:
    for node in ast.walk(BARE):
        if isinstance(node, ast.Attribute):
            assert node.attr not in NEWER, f"{node.attr} in line {node.lineno}"
        if isinstance(node, ast.keyword):
            assert node.arg not in NEWER_KEYWORDS, f"{node.arg} in line {node.lineno}"


def test_no_builtin_is_subscripted_and_no_types_are_joined_at_run_time() -> None:
    builtin = {"list", "dict", "set", "tuple", "frozenset", "type"}
    for node in ast.walk(BARE):
        if isinstance(node, ast.Subscript) and isinstance(node.value, ast.Name):
            assert node.value.id not in builtin, f"line {node.lineno}"
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.BitOr):
            for side in (node.left, node.right):
                assert not (isinstance(side, ast.Name) and side.id in {*builtin, "str", "int", "bytes"}), (
                    f"line {node.lineno}"
                )
                assert not isinstance(side, ast.Dict), f"dict | dict in line {node.lineno}"


def test_it_is_the_file_that_is_put_on_boxes() -> None:
    assert SOURCE.startswith("#!/usr/bin/env python3\n")
    assert len(SOURCE) < 64 * 1024, "it travels on every preparation"
