"""What `jax-attn diff` found, and how it is told: the verdict, where, why, and then the tables."""

from dataclasses import dataclass
from typing import Any

from jax_attn.parity.diagnosing.lint_modules import SettingFinding
from jax_attn.parity.report import Report
from jax_attn.parity.text import alike, joined
from jax_attn.parity.training.report import TrainingReport

AGREES, DIFFERS, NOTHING = 0, 1, 2


@dataclass(frozen=True)
class Findings:
    """What one command found.

    Attributes:
        report: outputs and gradients, and the diagnosis of why they differ.
        training: of the trainings.
        undiagnosed: why no cause was looked for, where they differ.
        settings: settings of paired modules that differ.
    """

    report: Report
    training: TrainingReport | None = None
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
    def verdict(self) -> str:
        """ "passed", "failed", or "nothing was compared"."""
        return {AGREES: "passed", DIFFERS: "failed", NOTHING: "nothing was compared"}[self.status]

    @property
    def headline(self) -> str:
        """The verdict on outputs and gradients, and that on the trainings."""
        return joined(self.report.headline, self.training.headline if self.training else "", by="\n")

    @property
    def where(self) -> str:
        """Where the two begin to differ, and where their trainings do."""
        return joined(self.report.where, self.training.where() if self.training else "")

    @property
    def why(self) -> str:
        """The causes that were found, or why none was looked for."""
        return joined(self.report.why, self.remarks, self.training.why if self.training else "")

    @property
    def remarks(self) -> str:
        """Without a diagnosis: why there is none, and the modules' settings that differ."""
        if self.report.diagnosis is not None:
            return ""
        word = " by their attributes, and these inputs show no difference" if self.report.passed else ""
        settings = [f"settings differ{word}:", *(f"  {each}" for each in alike(map(str, self.settings)))]
        return joined(self.undiagnosed, "\n".join(settings) if self.settings else "")

    def text(self, verbose: bool = False) -> str:
        """Return the verdict, where, why, and the tables: the worst of them, or, where `verbose`, all."""
        tables = [each.tables(verbose) for each in (self.report, self.training) if each is not None]
        return joined(self.headline, self.where, self.why, *tables)

    def to_json(self) -> dict[str, Any]:
        """Everything, as JSON has it."""
        report, training = self.report, self.training
        return {
            "verdict": self.verdict,
            "where": self.where,
            "why": self.why,
            "passed": self.passed,
            "diagnosis": report.diagnosis and report.diagnosis.to_json(),
            "undiagnosed": self.undiagnosed,
            "settings": [{**vars(f), "flax": str(f.flax), "torch": str(f.torch)} for f in self.settings],
            "report": report.to_json(),
            "trace": report.trace and report.trace.to_json(),
            "training": training and training.to_json(),
        }
