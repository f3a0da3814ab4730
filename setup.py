"""The wheel carries the programs of examples/ as jax_attn/examples, where `jax-attn train` finds them."""

from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

EXAMPLES = sorted(Path("examples").glob("*.py"))


class BuildWithExamples(build_py):
    """`build_py`, and the examples. An editable install has them beside the package."""

    def run(self) -> None:
        """Copy the modules, and the examples."""
        super().run()
        if not self.editable_mode:
            for source, target in zip(EXAMPLES, self._targets(), strict=True):
                self.mkpath(str(Path(target).parent))
                self.copy_file(str(source), target)

    def get_source_files(self) -> list[str]:
        """What a source distribution has to have."""
        return [*super().get_source_files(), *map(str, EXAMPLES)]

    def get_outputs(self, include_bytecode: bool = True) -> list[str]:
        """The files that are written."""
        return [*super().get_outputs(include_bytecode), *([] if self.editable_mode else self._targets())]

    def _targets(self) -> list[str]:
        return [str(Path(self.build_lib, "jax_attn", source)) for source in EXAMPLES]


setup(cmdclass={"build_py": BuildWithExamples})
