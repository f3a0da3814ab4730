"""What `jax-attn diff` found, and how it is told."""

from dataclasses import dataclass, replace
from typing import Any

from rich.console import Console

from jax_attn.parity.diagnosing.diagnose import Diagnosis
from jax_attn.parity.diagnosing.lint_modules import SettingFinding
from jax_attn.parity.report import Report
from jax_attn.parity.training.report import TrainingReport

AGREES, DIFFERS, NOTHING = 0, 1, 2


@dataclass(frozen=True)
class Findings:
    """What one command found.

    Attributes:
        report: outputs and gradients.
        training: of the trainings.
        diagnosis: why outputs or gradients differ.
        undiagnosed: why no cause was looked for, where they differ.
        settings: settings of paired modules that differ.
    """

    report: Report
    training: TrainingReport | None = None
    diagnosis: Diagnosis | None = None
    undiagnosed: str = ""
    settings: tuple[SettingFinding, ...] = ()

    @property
    def passed(self) -> bool:
        """Whether all of it passed."""
        return self.report.passed and (self.training is None or self.training.passed)

    @property
    def status(self) -> int:
        """The exit status."""
        compared = any((result.kind, result.name) != ("run", "torch") for result in self.report.results)
        trained = self.training is not None and bool(self.training.deviations)
        return AGREES if self.passed else DIFFERS if compared or trained else NOTHING

    @property
    def why(self) -> str:
        """The causes that were found, or why none was looked for."""
        return self.undiagnosed if self.diagnosis is None else str(self.diagnosis)

    @property
    def told_settings(self) -> str:
        """The modules' settings that differ, where the diagnosis does not tell them."""
        if not self.settings or self.diagnosis is not None:
            return ""
        word = " by their attributes, and these inputs show no difference" if self.report.passed else ""
        return "\n".join([f"settings differ{word}:", *(f"  {finding}" for finding in self.settings)])

    def to_json(self) -> dict[str, Any]:
        """Everything, as JSON has it."""
        trace = self.report.trace
        return {
            "passed": self.passed,
            "report": self.report.to_json(),
            "trace": None if trace is None else trace.to_json(),
            "diagnosis": None if self.diagnosis is None else self.diagnosis.to_json(),
            "undiagnosed": self.undiagnosed,
            "settings": [{**vars(f), "flax": str(f.flax), "torch": str(f.torch)} for f in self.settings],
            "training": None if self.training is None else self.training.to_json(),
        }

    def show(self, console: Console) -> None:
        """The table, then where, then why."""
        parts = [
            replace(self.report, first_divergence=None),
            self.report.first_divergence,
            self.why,
            self.told_settings,
            self.training,
        ]
        for part in parts:
            if part:
                console.print(f"{part}\n", markup=False)
